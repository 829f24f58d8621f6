//! Search for the weight files of a Hugging Face directory: a single file, or shards with or without an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::no_weights::{LISTED, no_weights, shortened};
use super::{Warnings, documents, place};
use crate::manifest::is_plain_name;
use crate::{Error, Result, json};
use slm_store::Error as StoreError;

/// A naming scheme of weight files.
pub(super) struct Naming {
    pub(super) single: &'static str,
    pub(super) index: &'static str,
    /// Text before and after the numbers of a shard.
    shard: (&'static str, &'static str),
}

pub(super) const SAFETENSORS: Naming = Naming {
    single: "model.safetensors",
    index: "model.safetensors.index.json",
    shard: ("model-", ".safetensors"),
};
/// Names of the files that transformers wrote before safetensors.
pub(super) const PICKLES: Naming = Naming {
    single: "pytorch_model.bin",
    index: "pytorch_model.bin.index.json",
    shard: ("pytorch_model-", ".bin"),
};

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) type WeightMap = BTreeMap<String, String>;

/// The names of the weight files, and the index if they were found through one.
pub(super) type Found = (Vec<String>, Option<WeightMap>);

/// Finds the weight files in `dir`: safetensors, or else pickles.
pub(super) fn find(dir: &Path, warnings: &mut Warnings) -> Result<Found> {
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
                    "it was read, and {other} in the same directory was ignored: remove the file that is not the model"
                );
                warnings.add(&single, &what);
            }
            return Ok(Some((vec![self.single.to_owned()], None)));
        }
        let map = documents::read::<Index>(&index, json::LARGE)?.map(|index| index.weight_map);
        // Shards are more informative than an empty index.
        if let Some(map) = map.filter(|map| !map.is_empty() || shards.is_empty()) {
            let names = self.shards_of(dir, &index, &map)?;
            return Ok(Some((names, Some(map))));
        }
        let Some((total, found)) = shards.iter().next() else { return Ok(None) };
        if shards.len() > 1 {
            return Err(Error::Unusable {
                path: dir.to_owned(),
                problem: format!("{} is not there, and the shards belong to several models", self.index),
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

    /// Groups the shards among file names: by the total number of shards, then by the number of each shard.
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

    /// Returns the files that an index names.
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
