//! The tensors of a Hugging Face directory, in one or several files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use slm_model::arch::Architecture;

use super::Warnings;
use super::names::{Bare, foreign_prefix};
use super::quantized::{Layer, Method};
use super::weight_file::WeightFile;
use super::weight_naming::{PICKLES, SAFETENSORS, find};
use crate::{Error, Result};
use slm_store::{Error as StoreError, StopFlag};

/// All tensors of a model, from one or several files, under names without wrappers.
#[derive(Debug)]
pub(super) struct Weights {
    dir: PathBuf,
    files: Vec<WeightFile>,
    /// Index of the file of each tensor.
    places: HashMap<String, usize>,
    /// Original names of the tensors that were renamed.
    originals: HashMap<String, String>,
    /// True if the names have the architecture's prefix.
    prefixed: bool,
    /// The shard of each tensor, according to the index.
    listed: Option<HashMap<String, String>>,
    layers: usize,
    /// Quantized weights, by the name of the float tensor that each replaces.
    quantized: BTreeMap<String, Layer>,
    /// The tensors that quantized weights consist of.
    parts: BTreeSet<String>,
}

impl Weights {
    pub(super) fn open(dir: &Path, architecture: &Architecture, warnings: &mut Warnings) -> Result<Self> {
        let (names, index) = find(dir, warnings)?;
        let mut files = Vec::with_capacity(names.len());
        for name in &names {
            files.push(WeightFile::open(&dir.join(name))?);
        }
        let all = || files.iter().flat_map(WeightFile::names);
        if let Some(error) = unmerged(dir, all())? {
            return Err(error);
        }
        let bare: Vec<Bare> = all().map(|name| Bare::new(name, architecture)).collect();
        let foreign = foreign_prefix(bare.iter(), architecture);
        let bare_name = |name: &str| Bare::behind(name, architecture, foreign.as_deref());
        let bare: HashMap<&String, Bare> = all().map(|name| (name, bare_name(name))).collect();
        warn_of_wrappers(dir, bare.values(), warnings);
        if let Some(foreign) = &foreign {
            let what = format!(
                "names of tensors were read without `{foreign}`, the name that another module gave the model"
            );
            warnings.add(dir, &what);
        }
        let prefixed = bare.values().any(|bare| bare.prefixed);
        let layers = bare.values().filter_map(Bare::layer).collect::<BTreeSet<_>>().len();
        let renamed: HashMap<String, String> = bare
            .iter()
            .map(|(&name, bare)| (name.clone(), bare.with_prefix(architecture, prefixed)))
            .collect();
        drop(bare);
        let listed = index.map(|index| {
            let rename = |(tensor, shard): (String, String)| {
                (bare_name(&tensor).with_prefix(architecture, prefixed), shard)
            };
            index.into_iter().map(rename).collect::<HashMap<String, String>>()
        });
        let mut weights = Self {
            dir: dir.to_owned(),
            files: Vec::new(),
            places: HashMap::new(),
            originals: HashMap::new(),
            prefixed,
            listed,
            layers,
            quantized: BTreeMap::new(),
            parts: BTreeSet::new(),
        };
        for file in files {
            weights.add(file, &renamed)?;
        }
        Ok(weights)
    }

    /// Adds the tensors of a file. If two files contain a tensor of the same name, the index decides.
    fn add(&mut self, mut file: WeightFile, renamed: &HashMap<String, String>) -> Result<()> {
        let mut inside: HashMap<&str, &str> = HashMap::new();
        for name in file.names() {
            let new = renamed.get(name).unwrap_or(name);
            if let Some(other) = inside.insert(new, name) {
                return Err(Error::Unusable {
                    path: file.path().to_owned(),
                    problem: format!("tensors {other:?} and {name:?} are the same tensor of the model"),
                    remedy: "save the model again, without its wrapper".to_owned(),
                });
            }
            if name != new {
                self.originals.insert(new.clone(), name.clone());
            }
        }
        file.rename(|name| renamed.get(name).cloned().unwrap_or_else(|| name.to_owned()))?;
        let number = self.files.len();
        let own = file.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for name in file.names() {
            let listed = self.listed.as_ref().and_then(|listed| listed.get(name));
            match self.places.get(name) {
                Some(&other)
                    if listed.is_none_or(|shard| self.files[other].path() != self.dir.join(shard)) =>
                {
                    if listed.is_some_and(|shard| shard == own) {
                        self.places.insert(name.clone(), number);
                        continue;
                    }
                    return Err(Error::Unusable {
                        path: file.path().to_owned(),
                        problem: format!("tensor {name:?} is also in {}", self.files[other].path().display()),
                        remedy:
                            "the files do not belong together: remove those that are not part of the model"
                                .to_owned(),
                    });
                }
                Some(_) => {}
                None => {
                    self.places.insert(name.clone(), number);
                }
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Makes all further reads fail once `stop` is set.
    pub(super) fn stop_at(&mut self, stop: &StopFlag) {
        self.files.iter_mut().for_each(|file| file.stop_at(stop.clone()));
    }

    /// Returns the directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the file to name in messages about all tensors.
    pub(super) fn path(&self) -> &Path {
        match &self.files[..] {
            [file] => file.path(),
            _ => &self.dir,
        }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(WeightFile::path)
    }

    /// Groups the tensors of quantized weights according to `method`. Returns the number of quantized weights.
    pub(super) fn read_quantized(&mut self, method: &Method) -> Result<usize> {
        for layer in method.layers(self)? {
            self.parts.extend(layer.parts().map(str::to_owned));
            self.quantized.insert(layer.weight(), layer);
        }
        Ok(self.quantized.len())
    }

    /// Returns the quantized weight that replaces the float tensor `name`.
    pub(super) fn quantized(&self, name: &str) -> Option<&Layer> {
        self.quantized.get(name)
    }

    /// Returns the sorted names of all tensors. A quantized weight counts as one tensor.
    pub(super) fn names(&self) -> Vec<String> {
        let stored = self.places.keys().filter(|name| !self.parts.contains(*name));
        let names: BTreeSet<&String> = stored.chain(self.quantized.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// Returns the sorted names of all stored tensors.
    pub(super) fn stored_names(&self) -> BTreeSet<&str> {
        self.places.keys().map(String::as_str).collect()
    }

    /// Returns `true` if there is a tensor `name`, stored as floats or quantized.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.quantized.contains_key(name) || (self.places.contains_key(name) && !self.parts.contains(name))
    }

    /// Returns the shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        match self.quantized.get(name) {
            Some(layer) => Some(layer.shape()),
            None => self.file_of(name)?.shape(name),
        }
    }

    /// Returns the values of a tensor, dequantized if necessary.
    pub(super) fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self.quantized.get(name) {
            Some(layer) => layer.values(self, None),
            None => self.require(name)?.read_f32(name),
        }
    }

    /// Returns the file that contains a stored tensor.
    pub(super) fn require(&self, name: &str) -> Result<&WeightFile> {
        self.file_of(name).ok_or_else(|| {
            Error::Store(StoreError::TensorSet {
                path: self.path().to_owned(),
                missing: vec![name.to_owned()],
                unexpected: Vec::new(),
                remedy: "download all files of the model".to_owned(),
            })
        })
    }

    /// Returns the name of a tensor in its file.
    pub(super) fn original<'a>(&'a self, name: &'a str) -> &'a str {
        self.originals.get(name).map_or(name, String::as_str)
    }

    /// Returns `true` if the names have the architecture's prefix.
    pub(super) fn prefixed(&self) -> bool {
        self.prefixed
    }

    /// Returns the name of the index for this kind of file.
    pub(super) fn index_name(&self) -> &'static str {
        match self.files.first() {
            Some(WeightFile::Pickle(_)) => PICKLES.index,
            _ => SAFETENSORS.index,
        }
    }

    /// Returns the number of layers that have tensors.
    pub(super) fn layers(&self) -> usize {
        self.layers
    }

    /// Returns the shard in which a tensor should be according to the index.
    pub(super) fn listed_in(&self, tensor: &str) -> Option<PathBuf> {
        Some(self.dir.join(self.listed.as_ref()?.get(tensor)?))
    }

    /// Returns `true` if there is an index and it does not list the tensor.
    pub(super) fn is_unlisted(&self, tensor: &str) -> bool {
        self.listed.as_ref().is_some_and(|listed| !listed.contains_key(tensor))
    }

    /// Returns the file that contains a stored tensor.
    pub(super) fn file_of(&self, tensor: &str) -> Option<&WeightFile> {
        self.places.get(tensor).and_then(|&file| self.files.get(file))
    }
}

/// Returns the error for tensors that include an unmerged LoRA.
fn unmerged<'a>(dir: &Path, mut names: impl Iterator<Item = &'a String>) -> Result<Option<Error>> {
    let marks = [
        ".lora_A.",
        ".lora_B.",
        ".lora_embedding_A",
        ".base_layer.",
        ".modules_to_save.",
        ".original_module.",
    ];
    let Some(name) = names.find(|name| marks.iter().any(|mark| name.contains(mark))) else { return Ok(None) };
    Ok(Some(Error::Unusable {
        path: dir.to_owned(),
        problem: format!("it holds a LoRA adapter (PEFT) that is not merged into the model: tensor {name:?}"),
        remedy: "merge it with PEFT's merge_and_unload() and save_pretrained(), and import the result"
            .to_owned(),
    }))
}

fn warn_of_wrappers<'a>(dir: &Path, names: impl Iterator<Item = &'a Bare>, warnings: &mut Warnings) {
    let wrappers: BTreeSet<(&str, &str)> = names.flat_map(|bare| bare.wrappers.iter().copied()).collect();
    for (wrapper, origin) in wrappers {
        warnings
            .add(dir, &format!("names of tensors were read without `{wrapper}.`, the prefix of {origin}"));
    }
}
