"""What one node of a cluster does for the others: keeps files by their digest, starts programs that end with it.

In: files as [path, sha256, reference to their bytes in Ray's store]. Out: their places on this node; processes. A file that lies at its path
with its digest is used where it is; others come once through the store into the node's temporary folder. Deliberately
absent: what the programs are for.
"""

import ctypes
import hashlib
import os
import pathlib
import signal
import subprocess
import tempfile

import ray


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_checked = {}


def _is(path, sha256):
    """Whether the file is the one of this digest; looked at once for every state of it in this process."""
    try:
        state = os.stat(path)
    except OSError:
        return False
    known = (str(path), state.st_size, state.st_mtime_ns, state.st_ino)
    if known not in _checked:
        _checked[known] = digest(path)
    return _checked[known] == sha256


def offer(files, local):
    """Files of a plan for the nodes: on a cluster of one machine they are where they are."""
    read = lambda path: None if local else ray.put(pathlib.Path(path).read_bytes())
    return {name: [file["path"], file["sha256"], read(file["path"])] for name, file in files.items()}


def place(file):
    """Where the file lies on this node."""
    path, sha256, reference = file
    if _is(path, sha256):
        return path
    if reference is None:
        raise RuntimeError(f"{path} is not the file of the plan any more")
    folder = pathlib.Path(tempfile.gettempdir()) / f"bitforge-files-{os.getuid()}" / sha256
    kept = folder / pathlib.Path(path).name
    if not _is(kept, sha256):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Under another name first: many processes of a node may do this at once, and any may be killed.
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial:
            partial.write(ray.get(reference))
        os.chmod(partial.name, 0o700)
        os.replace(partial.name, kept)
        if not _is(kept, sha256):
            raise RuntimeError(f"{kept} came as another file than {sha256}")
    return str(kept)


def start(command, **more):
    """A process that is killed when the thread that started it ends, however that ends."""
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def with_parent():
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(command, preexec_fn=with_parent, **more)


def processor():
    """The name of this node's processor, as the system has it."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine
