//! A Hugging Face model directory: its JSON files and its safetensors, in one file or in shards.
//!
//! In: the directory. Out: [`Checkpoint`], whose tensors have unique names. Shards are named by
//! model.safetensors.index.json, which must agree with what they hold. Deliberately absent: the meaning of anything,
//! other weight formats (.bin, .pth, .npz).
//!
//! Source: transformers' `save_pretrained`.

use super::safetensors::{Safetensors, View};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Safetensors>,
    /// Shard and position of each tensor.
    place_of_name: BTreeMap<String, (usize, usize)>,
}

impl Checkpoint {
    /// # Errors
    /// A directory without safetensors, a damaged file, shards that are not those of the index.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            let what = format!("{} is not a directory", dir.display());
            return Err(Error::NotFound {
                what,
                remedy: "give the directory of a Hugging Face model".into(),
            });
        }
        let index: Option<Index> = json(&dir.join(INDEX))?;
        let names = match &index {
            Some(index) => {
                index.weight_map.values().cloned().collect::<BTreeSet<String>>().into_iter().collect()
            }
            None => vec![single(dir)?],
        };
        let mut shards = Vec::new();
        for name in &names {
            // A name is a file of this directory and nothing else.
            if Path::new(name).components().count() != 1 || !name.ends_with(".safetensors") {
                let what = format!("{INDEX} names the file {name:?}");
                return Err(Error::unsupported(
                    dir,
                    what,
                    "it must be a .safetensors file of the same directory",
                ));
            }
            shards.push(Safetensors::open(&dir.join(name))?);
        }
        let mut place_of_name = BTreeMap::new();
        for (at, shard) in shards.iter().enumerate() {
            for (position, tensor) in shard.tensors().enumerate() {
                if let Some((other, _)) = place_of_name.insert(tensor.name.to_owned(), (at, position)) {
                    let (other, shard) = (shards[other].path().display(), shard.path().display());
                    let what = format!("tensor {:?} is in {other} and in {shard}", tensor.name);
                    return Err(Error::unsupported(
                        dir,
                        what,
                        "remove the files that do not belong to the model",
                    ));
                }
            }
        }
        for (tensor, file) in index.iter().flat_map(|index| &index.weight_map) {
            let at = place_of_name.get(tensor).map(|(shard, _)| &names[*shard]);
            if at != Some(file) {
                let what = format!("{INDEX} puts tensor {tensor:?} into {file}, which does not hold it");
                return Err(Error::unsupported(
                    dir,
                    what,
                    "fetch the shards again: they are not of one model",
                ));
            }
        }
        Ok(Checkpoint { dir: dir.into(), shards, place_of_name })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place_of_name.keys().map(String::as_str)
    }

    pub fn tensor(&self, name: &str) -> Option<View<'_>> {
        let (shard, position) = *self.place_of_name.get(name)?;
        self.shards[shard].tensors().nth(position)
    }

    /// A JSON file of the directory, `None` where there is none.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        json(&self.dir.join(name))
    }

    /// A text or binary file of the directory, `None` where there is none.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        read(&self.dir.join(name))
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The one file that holds all weights.
fn single(dir: &Path) -> Result<String> {
    if dir.join(SINGLE).is_file() {
        return Ok(SINGLE.into());
    }
    let entries = std::fs::read_dir(dir).map_err(|error| Error::io(dir, error))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok(name),
        (found, _) => {
            let what = match found {
                None => format!("{} holds no .safetensors file", dir.display()),
                Some(_) => format!("{} holds several .safetensors files and no {INDEX}", dir.display()),
            };
            let remedy =
                format!("save the model with safe_serialization, as {SINGLE} or as shards with {INDEX}");
            Err(Error::NotFound { what, remedy })
        }
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::unsupported(path, format!("is not what it must be: {error}"), "fetch the file again")
    })
}
