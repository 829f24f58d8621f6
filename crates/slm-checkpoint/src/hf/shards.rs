//! The weight files of a Hugging Face directory: one, or several with an index.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::manifest::is_plain_name;
use crate::tensors::TensorFile;
use crate::{Error, Result, json};
use slm_store::Error as StoreError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// All tensors of a model, in whichever file each lies.
#[derive(Debug)]
pub(super) struct Shards {
    dir: PathBuf,
    files: Vec<TensorFile>,
    /// File of each tensor.
    places: HashMap<String, usize>,
}

impl Shards {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let single = dir.join(SINGLE);
        let index = dir.join(INDEX);
        if single.exists() {
            let file = TensorFile::open(&single)?;
            let places = file.names().iter().map(|name| (name.clone(), 0)).collect();
            return Ok(Self { dir: dir.to_owned(), files: vec![file], places });
        }
        match json::read_optional(&index, json::LARGE)? {
            Some(bytes) => Self::open_index(dir, &index, &bytes),
            None if dir.join("pytorch_model.bin").exists() => Err(Error::Store(StoreError::Missing {
                path: single,
                remedy: "pytorch_model.bin is a Python pickle, which is not read: convert it to safetensors \
                         with save_pretrained(..., safe_serialization=True)"
                    .to_owned(),
            })),
            None => Err(Error::Store(StoreError::Missing {
                path: single,
                remedy: format!("nor is there a {INDEX}: download the model's weights"),
            })),
        }
    }

    fn open_index(dir: &Path, index_path: &Path, bytes: &[u8]) -> Result<Self> {
        let index: Index = json::parse(index_path, bytes)?;
        let mut files: Vec<TensorFile> = Vec::new();
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        let mut places = HashMap::with_capacity(index.weight_map.len());
        for (tensor, shard) in &index.weight_map {
            let file = match by_name.get(shard.as_str()) {
                Some(&file) => file,
                None => {
                    if !is_plain_name(shard) || !shard.ends_with(".safetensors") {
                        let expected = "the name of a .safetensors file in the same directory";
                        return Err(Error::field(
                            index_path,
                            format!("weight_map.{tensor}"),
                            expected,
                            shard,
                        ));
                    }
                    let path = dir.join(shard);
                    if !path.exists() {
                        let remedy = format!("{INDEX} names it: download all shards of the model");
                        return Err(Error::Store(StoreError::Missing { path, remedy }));
                    }
                    files.push(TensorFile::open(&path)?);
                    by_name.insert(shard, files.len() - 1);
                    files.len() - 1
                }
            };
            if files[file].shape(tensor).is_none() {
                return Err(Error::Store(StoreError::TensorSet {
                    path: files[file].path().to_owned(),
                    missing: vec![tensor.clone()],
                    unexpected: Vec::new(),
                    remedy: format!("{INDEX} says that it is there: the files do not belong together"),
                }));
            }
            places.insert(tensor.clone(), file);
        }
        for file in &files {
            let unexpected: Vec<String> =
                file.names().iter().filter(|name| !places.contains_key(*name)).cloned().collect();
            if !unexpected.is_empty() {
                return Err(Error::Store(StoreError::TensorSet {
                    path: file.path().to_owned(),
                    missing: Vec::new(),
                    unexpected,
                    remedy: format!("{INDEX} does not list them: the files do not belong together"),
                }));
            }
        }
        Ok(Self { dir: dir.to_owned(), files, places })
    }

    /// The file for messages about all of the tensors.
    pub(super) fn path(&self) -> &Path {
        match &self.files[..] {
            [file] => file.path(),
            _ => &self.dir,
        }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(TensorFile::path)
    }

    /// Names of all tensors, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.places.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The file that holds a tensor.
    pub(super) fn file_of(&self, tensor: &str) -> Option<&TensorFile> {
        self.places.get(tensor).and_then(|&file| self.files.get(file))
    }
}
