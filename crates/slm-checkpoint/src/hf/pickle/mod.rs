//! Weights in files of `torch.save` (`pytorch_model.bin`), read by the crate pytorch-reader, which executes no code.
//!
//! A pickle is a program that may call any Python function. Pickles of tensors call only the few functions in
//! [`calls::ALLOWED`]; a file that names any other function is rejected with its name, before its tensors are read.

mod calls;
mod container;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pytorch_reader::{DType, PytorchReader, Tensor};
use safetensors::Dtype;

use super::impostor;
use crate::{Error, Result};
use slm_store::tensors::{first_not_finite, to_f32};
use slm_store::{Error as StoreError, StopFlag};

/// Remedy for a pickle that is not supported.
const CONVERT: &str = "convert the model to safetensors: load it with transformers, and save it with \
                       save_pretrained(..., safe_serialization=True)";

/// The tensors of a pickle.
pub(crate) struct PickleFile {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    /// Sorted names of the tensors.
    names: Vec<String>,
    stop: StopFlag,
}

impl std::fmt::Debug for PickleFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PickleFile").field("path", &self.path).field("names", &self.names).finish()
    }
}

impl PickleFile {
    /// Opens `path` without reading any tensor.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let refuse = |problem: String| Error::Unusable {
            path: path.to_owned(),
            problem: format!("it is a Python pickle that cannot be read: {problem}"),
            remedy: CONVERT.to_owned(),
        };
        if let Some(error) = impostor::explain_pickle(path) {
            return Err(error);
        }
        let size = std::fs::metadata(path).map_err(Error::io(path, "read the size"))?.len();
        for program in container::pickles(path).map_err(refuse)? {
            if let Some(call) = calls::first_forbidden(&program).map_err(refuse)? {
                return Err(Error::Unusable {
                    path: path.to_owned(),
                    problem: format!(
                        "it is a Python pickle that names {call}, which is not part of a tensor: whoever loads it with \
                         Python lets it call that"
                    ),
                    remedy: "do not load it unless you trust its origin; import the model's safetensors, or save its \
                             state_dict() alone"
                        .to_owned(),
                });
            }
        }
        let reader = PytorchReader::new(path).map_err(|error| refuse(error.to_string()))?;
        let tensors = reader.into_tensors();
        if tensors.is_empty() {
            return Err(refuse("it holds no tensors".to_owned()));
        }
        // A view can repeat stored values without limit.
        if let Some((name, tensor)) = tensors.iter().find(|(_, tensor)| tensor.byte_len() as u64 > size) {
            let bytes = tensor.byte_len();
            return Err(refuse(format!(
                "tensor {name:?} of {bytes} bytes is larger than the file of {size}"
            )));
        }
        let mut names: Vec<String> = tensors.keys().cloned().collect();
        names.sort_unstable();
        Ok(Self { path: path.to_owned(), tensors, names, stop: StopFlag::NEVER })
    }

    /// Makes all further reads fail once `stop` is set.
    pub(crate) fn stop_at(&mut self, stop: StopFlag) {
        self.stop = stop;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Renames every tensor with `rename`. If two tensors get the same name, the second one wins.
    pub(crate) fn rename(&mut self, rename: impl Fn(&str) -> String) {
        for name in &mut self.names {
            let new = rename(name);
            if let Some(tensor) = self.tensors.remove(name) {
                self.tensors.insert(new.clone(), tensor);
            }
            *name = new;
        }
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Tensor::shape)
    }

    pub(crate) fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|tensor| match tensor.dtype() {
            DType::F64 => Dtype::F64,
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::I64 => Dtype::I64,
            DType::I32 => Dtype::I32,
            DType::I16 => Dtype::I16,
            DType::I8 => Dtype::I8,
            DType::U64 => Dtype::U64,
            DType::U32 => Dtype::U32,
            DType::U16 => Dtype::U16,
            DType::U8 => Dtype::U8,
            DType::Bool => Dtype::BOOL,
        })
    }

    pub(crate) fn check_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        let found = self.tensor(name)?.shape();
        if found == expected {
            return Ok(());
        }
        Err(Error::Store(StoreError::Shape {
            path: self.path.clone(),
            tensor: name.to_owned(),
            expected: expected.to_vec(),
            found: found.to_vec(),
        }))
    }

    pub(crate) fn check_dtype(&self, name: &str, expected: &[Dtype]) -> Result<()> {
        match self.dtype(name) {
            Some(found) if !expected.contains(&found) => {
                let expected: Vec<String> = expected.iter().map(Dtype::to_string).collect();
                Err(Error::Store(StoreError::TensorType {
                    path: self.path.clone(),
                    tensor: name.to_owned(),
                    expected: expected.join(" or "),
                    found,
                }))
            }
            _ => self.tensor(name).map(|_| ()),
        }
    }

    pub(crate) fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.check_dtype(name, &[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64])?;
        let values = to_f32(&self.read_bytes(name)?, self.dtype(name).unwrap_or(Dtype::F32));
        match first_not_finite(&values) {
            None => Ok(values),
            Some((index, value)) => Err(Error::Store(StoreError::NotFinite {
                path: self.path.clone(),
                tensor: name.to_owned(),
                index,
                value,
            })),
        }
    }

    pub(crate) fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.stop.check()?;
        self.tensor(name)?.read().map_err(Error::io(&self.path, "read"))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| {
            Error::Store(StoreError::TensorSet {
                path: self.path.clone(),
                missing: vec![name.to_owned()],
                unexpected: Vec::new(),
                remedy: "ask for a tensor that the file holds".to_owned(),
            })
        })
    }
}
