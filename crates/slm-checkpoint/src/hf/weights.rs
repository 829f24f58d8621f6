//! The weight files of a Hugging Face directory: one, or several with an index or without.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use slm_model::arch::Architecture;

use super::names::{Bare, foreign_prefix};
use super::quantized::{Layer, Method};
use super::weight_file::WeightFile;
use super::{CONFIG, Warnings, documents, place};
use crate::manifest::is_plain_name;
use crate::{Error, Result, json};
use slm_store::Error as StoreError;

/// The names that files of weights have.
struct Naming {
    single: &'static str,
    index: &'static str,
    /// What stands before and behind the numbers of a shard.
    shard: (&'static str, &'static str),
}

const SAFETENSORS: Naming = Naming {
    single: "model.safetensors",
    index: "model.safetensors.index.json",
    shard: ("model-", ".safetensors"),
};
/// What transformers wrote before.
const PICKLES: Naming = Naming {
    single: "pytorch_model.bin",
    index: "pytorch_model.bin.index.json",
    shard: ("pytorch_model-", ".bin"),
};
/// Names in a list for people.
const LISTED: usize = 5;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// All tensors of a model, in whichever file each lies, under names without wrappers.
#[derive(Debug)]
pub(super) struct Weights {
    dir: PathBuf,
    files: Vec<WeightFile>,
    /// File of each tensor.
    places: HashMap<String, usize>,
    /// The name in the file, of those that were renamed.
    originals: HashMap<String, String>,
    /// Whether names have the architecture's prefix.
    prefixed: bool,
    /// For each tensor that an index names, the shard that it says.
    listed: Option<HashMap<String, String>>,
    layers: usize,
    /// The weights that are stored quantized, by the name of the float tensor that they stand for.
    quantized: BTreeMap<String, Layer>,
    /// The tensors that these are made of.
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

    /// Adds the tensors of a file. Where two files have one of a name, the index decides.
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
                            "the files do not belong together: remove those that are no part of the model"
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

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file for messages about all of the tensors.
    pub(super) fn path(&self) -> &Path {
        match &self.files[..] {
            [file] => file.path(),
            _ => &self.dir,
        }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(WeightFile::path)
    }

    /// Takes the tensors of quantized weights together, as `method` says. Returns how many weights there are.
    pub(super) fn read_quantized(&mut self, method: &Method) -> Result<usize> {
        for layer in method.layers(self)? {
            self.parts.extend(layer.parts().map(str::to_owned));
            self.quantized.insert(layer.weight(), layer);
        }
        Ok(self.quantized.len())
    }

    /// The weight that is stored quantized in place of the float tensor `name`.
    pub(super) fn quantized(&self, name: &str) -> Option<&Layer> {
        self.quantized.get(name)
    }

    /// Names of all tensors, sorted. A weight that is stored quantized is one.
    pub(super) fn names(&self) -> Vec<String> {
        let stored = self.places.keys().filter(|name| !self.parts.contains(*name));
        let names: BTreeSet<&String> = stored.chain(self.quantized.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// Names of all tensors as they are stored, sorted.
    pub(super) fn stored_names(&self) -> BTreeSet<&str> {
        self.places.keys().map(String::as_str).collect()
    }

    /// Whether there is a tensor `name`, stored as it is or quantized.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.quantized.contains_key(name) || (self.places.contains_key(name) && !self.parts.contains(name))
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        match self.quantized.get(name) {
            Some(layer) => Some(layer.shape()),
            None => self.file_of(name)?.shape(name),
        }
    }

    /// The values of a tensor, which are computed where it is stored quantized.
    pub(super) fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self.quantized.get(name) {
            Some(layer) => layer.values(self, None),
            None => self.require(name)?.read_f32(name),
        }
    }

    /// The file that holds a tensor as it is stored.
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

    /// The name of a tensor in its file.
    pub(super) fn original<'a>(&'a self, name: &'a str) -> &'a str {
        self.originals.get(name).map_or(name, String::as_str)
    }

    /// Whether names have the architecture's prefix.
    pub(super) fn prefixed(&self) -> bool {
        self.prefixed
    }

    /// The name of the index of such files.
    pub(super) fn index_name(&self) -> &'static str {
        match self.files.first() {
            Some(WeightFile::Pickle(_)) => PICKLES.index,
            _ => SAFETENSORS.index,
        }
    }

    /// Layers that have tensors.
    pub(super) fn layers(&self) -> usize {
        self.layers
    }

    /// The shard in which a tensor should be, as the index says.
    pub(super) fn listed_in(&self, tensor: &str) -> Option<PathBuf> {
        Some(self.dir.join(self.listed.as_ref()?.get(tensor)?))
    }

    /// Whether there is an index that does not name a tensor.
    pub(super) fn is_unlisted(&self, tensor: &str) -> bool {
        self.listed.as_ref().is_some_and(|listed| !listed.contains_key(tensor))
    }

    /// The file that holds a tensor as it is stored.
    pub(super) fn file_of(&self, tensor: &str) -> Option<&WeightFile> {
        self.places.get(tensor).and_then(|&file| self.files.get(file))
    }
}

type WeightMap = BTreeMap<String, String>;

/// The names of weight files, and the index if it was one that named them.
type Found = (Vec<String>, Option<WeightMap>);

/// The files of weights in `dir`: safetensors, or else pickles.
fn find(dir: &Path, warnings: &mut Warnings) -> Result<Found> {
    let entries = place::names(dir);
    if let Some(found) = SAFETENSORS.find(dir, &entries, warnings)? {
        return Ok(found);
    }
    if let Some(found) = PICKLES.find(dir, &entries, warnings)? {
        return Ok(found);
    }
    Err(place::adapter(dir)?.unwrap_or_else(|| no_weights(dir, &entries)))
}

impl Naming {
    fn find(&self, dir: &Path, entries: &[String], warnings: &mut Warnings) -> Result<Option<Found>> {
        let (single, index) = (dir.join(self.single), dir.join(self.index));
        for path in [&single, &index] {
            if place::is_link_to_nothing(path) {
                return Err(place::link_to_nothing(path));
            }
        }
        let shards = self.numbered(entries);
        if single.exists() {
            let of_single = || -> Option<bool> {
                let index = documents::read::<Index>(&index, json::LARGE).ok()??;
                Some(index.weight_map.values().all(|file| file == self.single))
            };
            if (index.exists() && of_single() != Some(true)) || !shards.is_empty() {
                let shards = || format!("shards ({}00001-of-…)", self.shard.0);
                let other = if index.exists() { self.index.to_owned() } else { shards() };
                let what = format!(
                    "it was read, and {other} in the same directory passed over: remove what is not the model"
                );
                warnings.add(&single, &what);
            }
            return Ok(Some((vec![self.single.to_owned()], None)));
        }
        let map = documents::read::<Index>(&index, json::LARGE)?.map(|index| index.weight_map);
        // Shards tell more than an index of nothing.
        if let Some(map) = map.filter(|map| !map.is_empty() || shards.is_empty()) {
            let names = self.shards_of(dir, &index, &map)?;
            return Ok(Some((names, Some(map))));
        }
        let Some((total, found)) = shards.iter().next() else { return Ok(None) };
        if shards.len() > 1 {
            return Err(Error::Unusable {
                path: dir.to_owned(),
                problem: format!("{} is not there, and the shards are of several models", self.index),
                remedy: "remove those of the others, or download the index".to_owned(),
            });
        }
        let missing: Vec<String> = (1..=*total)
            .filter(|number| !found.contains_key(number))
            .take(LISTED + 1)
            .map(|n| self.numbered_shard(n, *total))
            .collect();
        if !missing.is_empty() {
            return Err(Error::Store(StoreError::Missing {
                path: dir.join(&missing[0]),
                remedy: format!(
                    "{} of {total} shards are there, without {}; missing: {}. Download all of them",
                    found.len(),
                    self.index,
                    shortened(missing.iter())
                ),
            }));
        }
        if *total > 1 {
            warnings.add(&index, &format!("it is not there: all {total} shards were read"));
        }
        Ok(Some((found.values().cloned().collect(), None)))
    }

    fn numbered_shard(&self, number: usize, total: usize) -> String {
        let (before, behind) = self.shard;
        format!("{before}{number:05}-of-{total:05}{behind}")
    }

    /// The shards among the names of files: by the number of all, those that are there by their number.
    fn numbered(&self, entries: &[String]) -> BTreeMap<usize, BTreeMap<usize, String>> {
        let mut shards: BTreeMap<usize, BTreeMap<usize, String>> = BTreeMap::new();
        let (before, behind) = self.shard;
        for name in entries {
            let numbers = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
            let numbers = numbers.and_then(|numbers| numbers.split_once("-of-"));
            if let Some((Ok(number), Ok(total))) =
                numbers.map(|(a, b)| (a.parse::<usize>(), b.parse::<usize>()))
                && *name == self.numbered_shard(number, total)
                && (1..=total).contains(&number)
            {
                shards.entry(total).or_default().insert(number, name.clone());
            }
        }
        shards
    }

    /// The files that an index names.
    fn shards_of(&self, dir: &Path, index: &Path, map: &WeightMap) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        let (_, behind) = self.shard;
        for (tensor, shard) in map {
            if names.contains(shard) {
                continue;
            }
            if !is_plain_name(shard) || !shard.ends_with(behind) {
                let expected = format!("the name of a {behind} file in the same directory");
                return Err(Error::field(index, format!("weight_map.{tensor}"), expected, shard));
            }
            let path = dir.join(shard);
            if place::is_link_to_nothing(&path) {
                return Err(place::link_to_nothing(&path));
            }
            if !path.exists() {
                let remedy = format!("{} names it: download all shards of the model", self.index);
                return Err(Error::Store(StoreError::Missing { path, remedy }));
            }
            names.insert(shard.clone());
        }
        match names.is_empty() {
            true => {
                Err(Error::field(index, "weight_map", "the tensors of the model and their files", "nothing"))
            }
            false => Ok(names.into_iter().collect()),
        }
    }
}

/// The error for a directory with a config and without weights that are read.
fn no_weights(dir: &Path, entries: &[String]) -> Error {
    if let Some(error) = other_formats(dir, entries) {
        return error;
    }
    let unfinished = |name: &&String| {
        [".incomplete", ".part", ".aria2", ".crdownload", ".tmp"].iter().any(|end| name.ends_with(end))
    };
    if let Some(name) = entries.iter().find(unfinished) {
        return Error::Unusable {
            path: dir.join(name),
            problem: "it is the beginning of a file, and its download was not finished".to_owned(),
            remedy: "download the model again".to_owned(),
        };
    }
    let others: Vec<&String> = entries.iter().filter(|name| name.ends_with(".safetensors")).collect();
    let path = dir.join(SAFETENSORS.single);
    let index = SAFETENSORS.index;
    Error::Store(match &others[..] {
        [] => StoreError::Missing {
            path,
            remedy: format!("nor is there a {index}: download the model's weights"),
        },
        others => StoreError::Missing {
            path,
            remedy: format!(
                "nor is there a {index}; other files are there: {}. If one is the whole model, rename it",
                shortened(others.iter().map(|name| name.as_str()))
            ),
        },
    })
}

/// The error for a directory whose weights are in a format that is not read.
pub(super) fn other_formats(dir: &Path, entries: &[String]) -> Option<Error> {
    let ends = |ends: &[&str]| -> Vec<&String> {
        let found = entries.iter().filter(|name| ends.iter().any(|end| name.ends_with(end)));
        found.filter(|name| *name != "training_args.bin").collect()
    };
    let list = |names: &[&String]| shortened(names.iter().map(|name| name.as_str()));
    let sharded = |marks: &[&str]| entries.iter().find(|name| marks.iter().any(|mark| name.contains(mark)));
    let (problem, remedy) = if let Some(name) = sharded(&["global_step", "zero_to_fp32"]) {
        let remedy = "merge them: python zero_to_fp32.py DIRECTORY OUTPUT --safe_serialization";
        (format!("its weights are shards of DeepSpeed: {name}"), remedy)
    } else if let Some(name) = sharded(&["_fsdp_", ".distcp"]) {
        (
            format!("its weights are shards of FSDP: {name}"),
            "merge them: accelerate merge-weights DIRECTORY OUTPUT",
        )
    } else if let pickles @ [_, ..] = &ends(&[".bin", ".pt", ".pth", ".ckpt"])[..] {
        let original = !dir.join(CONFIG).exists();
        let remedy = if original {
            "download the model in the Hugging Face layout, with config.json, or convert it with transformers"
        } else {
            "call the one with the state_dict of the model pytorch_model.bin; or convert the model to safetensors: load \
             it with transformers, and save it with save_pretrained(..., safe_serialization=True)"
        };
        (
            format!(
                "its weights are Python pickles, none of which is called pytorch_model.bin: {}",
                list(pickles)
            ),
            remedy,
        )
    } else if let gguf @ [_, ..] = &ends(&[".gguf"])[..] {
        let remedy = "import one of them: slm import FILE.gguf";
        (format!("it holds GGUF files: {}", list(gguf)), remedy)
    } else if let others @ [_, ..] = &ends(&[".h5", ".msgpack", ".onnx", ".tflite", ".nemo"])[..] {
        let remedy = "import the model's safetensors, which transformers writes with save_pretrained()";
        (format!("its weights are of another framework: {}", list(others)), remedy)
    } else {
        return None;
    };
    Some(Error::Unusable { path: dir.to_owned(), problem, remedy: remedy.to_owned() })
}

/// The error for tensors among which a LoRA was not merged.
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

/// The first few of a list, and how many more there are.
pub(super) fn shortened(names: impl ExactSizeIterator<Item = impl std::fmt::Display>) -> String {
    let count = names.len();
    let mut text: Vec<String> = names.take(LISTED).map(|name| name.to_string()).collect();
    if count > LISTED {
        text.push(format!("and {} more", count - LISTED));
    }
    text.join(", ")
}
