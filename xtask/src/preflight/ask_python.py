# Prints what preflight wants to know about this Python and its pip, as one line of JSON.
# pip's configuration is read the way pip documents it: files from the weakest to the strongest,
# then PIP_* variables; the default index is the one built into the installed pip.
import configparser
import importlib.util
import json
import os
import sys
import sysconfig

pip = None
default_index = None
try:
    from pip import __version__ as pip
    from pip._internal.models.index import PyPI

    default_index = PyPI.simple_url
except Exception:
    pass

home = os.path.expanduser("~")
xdg = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
xdg_dirs = (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
named = os.environ.get("PIP_CONFIG_FILE")
files = [os.path.join(d, "pip", "pip.conf") for d in reversed(xdg_dirs)] + ["/etc/pip.conf"]
if not named:
    files += [os.path.join(home, ".pip", "pip.conf"), os.path.join(xdg, "pip", "pip.conf")]
files += [os.path.join(sys.prefix, "pip.conf")]
if named:
    files = [] if named == os.devnull else files + [named]

settings = {}
for section in ("global", "download"):
    parser = configparser.RawConfigParser()
    try:
        parser.read(files)
    except Exception:
        continue
    if parser.has_section(section):
        settings.update({key.replace("_", "-"): value for key, value in parser.items(section)})
for key, value in os.environ.items():
    if key.startswith("PIP_") and value:
        settings[key[4:].lower().replace("_", "-")] = value

no_index = str(settings.get("no-index", "")).lower() in ("1", "true", "yes", "on", "y")
print(
    json.dumps(
        {
            "version": list(sys.version_info[:3]),
            "pip": pip,
            "venv": all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
            "site": sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}),
            "index_url": None if no_index else settings.get("index-url", default_index),
            "proxy": settings.get("proxy"),
        }
    )
)
