//! A file of weights: safetensors, or a pickle of `torch.save`.

use std::path::Path;

use safetensors::Dtype;

use super::impostor;
use super::pickle::PickleFile;
use crate::Result;
use crate::tensors::TensorFile;
use slm_store::StopFlag;

/// An open file of weights, whose tensors are read on request.
#[derive(Debug)]
pub(super) enum WeightFile {
    Safetensors(TensorFile),
    Pickle(PickleFile),
}

impl WeightFile {
    /// Opens `path`, a safetensors file or a pickle according to its name. The error for another kind of file names
    /// that kind.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|end| end == "bin") {
            return PickleFile::open(path).map(Self::Pickle);
        }
        let file = TensorFile::open(path);
        let file = file.map_err(|error| impostor::explain_weights(path).unwrap_or(error.into()));
        file.map(Self::Safetensors)
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
            Self::Pickle(file) => file.path(),
        }
    }

    /// Names of its tensors.
    pub(super) fn names(&self) -> &[String] {
        match self {
            Self::Safetensors(file) => file.names(),
            Self::Pickle(file) => file.names(),
        }
    }

    /// Makes all further reads fail once `stop` is set.
    pub(super) fn stop_at(&mut self, stop: StopFlag) {
        match self {
            Self::Safetensors(file) => file.stop_at(stop),
            Self::Pickle(file) => file.stop_at(stop),
        }
    }

    /// Renames every tensor with `rename`. The new names must be unique.
    pub(super) fn rename(&mut self, rename: impl Fn(&str) -> String) -> Result<()> {
        match self {
            Self::Safetensors(file) => file.rename(rename)?,
            Self::Pickle(file) => file.rename(rename),
        }
        Ok(())
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        match self {
            Self::Safetensors(file) => file.shape(name),
            Self::Pickle(file) => file.shape(name),
        }
    }

    pub(super) fn dtype(&self, name: &str) -> Option<Dtype> {
        match self {
            Self::Safetensors(file) => file.dtype(name),
            Self::Pickle(file) => file.dtype(name),
        }
    }

    /// Rejects a tensor with a shape other than `expected`.
    pub(super) fn check_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        match self {
            Self::Safetensors(file) => Ok(file.check_shape(name, expected)?),
            Self::Pickle(file) => file.check_shape(name, expected),
        }
    }

    /// Rejects a tensor with a type that is not in `expected`.
    pub(super) fn check_dtype(&self, name: &str, expected: &[Dtype]) -> Result<()> {
        match self {
            Self::Safetensors(file) => Ok(file.check_dtype(name, expected)?),
            Self::Pickle(file) => file.check_dtype(name, expected),
        }
    }

    /// Reads a tensor of floats as F32, in row-major order. All values must be finite.
    pub(super) fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self {
            Self::Safetensors(file) => Ok(file.read_f32(name)?),
            Self::Pickle(file) => file.read_f32(name),
        }
    }

    /// Reads the little-endian bytes of a tensor of any type.
    pub(super) fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        match self {
            Self::Safetensors(file) => Ok(file.read_bytes(name)?),
            Self::Pickle(file) => file.read_bytes(name),
        }
    }

    /// Returns `true` if tensor `name` has the type, shape and bytes of tensor `other_name` of `other`.
    pub(super) fn same_content(&self, name: &str, other: &Self, other_name: &str) -> Result<bool> {
        if let (Self::Safetensors(ours), Self::Safetensors(theirs)) = (self, other) {
            return Ok(ours.same_content(name, theirs, other_name)?);
        }
        let same_form =
            self.dtype(name) == other.dtype(other_name) && self.shape(name) == other.shape(other_name);
        Ok(same_form && self.read_bytes(name)? == other.read_bytes(other_name)?)
    }
}
