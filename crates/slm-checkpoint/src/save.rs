//! Writing of checkpoints.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use burn::tensor::TensorData;
use safetensors::Dtype;
use serde_json::Value;
use slm_model::{EMBED_TOKENS, ModelConfig, TOKEN_TABLE, Transformer};
use slm_nn::{NamedLinears, PackedWeight};
use slm_quant_core::{QParams, QuantizedMatrix};
use slm_store::layer::names;
use slm_store::manifest::Kind;
use slm_store::{METADATA, OutputDir, StopFlag, WEIGHTS, reserve, stored_dtype};

use crate::layout::Layout;
use crate::manifest::{MANIFEST, Manifest, is_plain_name};
use crate::versions::{CHECKPOINTS, CONFIG, TOKENIZER};
use crate::{
    Checkpoint, CheckpointConfig, Error, OpenOptions, OutputLock, QuantizationMetadata, Result,
    TensorFileWriter, TokenizerInfo, json, versions,
};
use slm_store::Error as StoreError;

/// Content of a checkpoint apart from the weights.
#[derive(Debug, Clone, Default)]
pub struct SaveRequest<'a> {
    /// Content of `tokenizer.json`.
    pub tokenizer_json: Option<&'a [u8]>,
    /// Special tokens.
    pub tokenizer: TokenizerInfo,
    /// Record of the quantization; required if the model has quantized layers, and only then.
    pub metadata: Option<&'a QuantizationMetadata>,
    /// Origin of the weights, as free-form information.
    pub lineage: Option<Value>,
    /// Training of the weights, as free-form information.
    pub training: Option<Value>,
    /// Additional files by name, which the manifest also covers.
    pub extra_files: &'a [(&'a str, &'a [u8])],
    /// Additional files by name that are too large to be held in memory.
    pub large_files: &'a [(&'a str, &'a dyn WriteFile)],
}

/// Writes the content of a file piece by piece.
pub trait WriteFile {
    /// Writes the file at `path`, where an empty file exists.
    ///
    /// # Errors
    /// An error of the system or of the content.
    fn write_file(&self, path: &Path) -> io::Result<()>;
}

impl fmt::Debug for dyn WriteFile + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteFile")
    }
}

/// Writes `model` as a checkpoint to `dir`, one tensor at a time.
///
/// The directory appears complete or not at all: files are written to a directory next to it and read back before it is
/// renamed. An existing `dir` is rejected unless `overwrite` is set and `dir` is empty or contains only a checkpoint.
///
/// # Errors
/// `StoreError::OutputExists`, `StoreError::OutputNotOurs`; `StoreError::NotFinite` for weights that are NaN or
/// infinite; `StoreError::Write`, `StoreError::TensorSet` or `StoreError::Metadata` for a request that does not fit
/// the model; [`Error::Vocabulary`]; `StoreError::OutputUnwritable`, `StoreError::Io`.
pub fn save(
    dir: impl AsRef<Path>,
    model: &Transformer,
    request: &SaveRequest<'_>,
    overwrite: bool,
) -> Result<PathBuf> {
    let mut layout = Layout::new(model.config());
    let mut declared = Ok(());
    for_each_packed(model, &mut |name, packed| {
        let static_input = packed.activation().static_params().is_some();
        let quantized = layout.quantize(name, packed.matrix().scheme(), static_input);
        if let (Ok(()), Err(source)) = (&declared, quantized) {
            declared = Err(Error::Store(StoreError::Layer {
                path: dir.as_ref().to_owned(),
                layer: name.to_owned(),
                source,
            }));
        }
    });
    declared?;
    let types = float_types(model);
    layout.store_floats_as(|name| types.get(name).copied());

    let mut writer = CheckpointWriter::create(dir, model.config(), &layout, overwrite)?;
    model.for_each_tensor(&mut |name, data: TensorData| {
        let values = data.try_into_vec::<f32>().map_err(|error| {
            Error::Store(StoreError::Write {
                path: writer.weights_path.clone(),
                reason: format!("tensor {name:?} is not made of 32-bit floats: {error:?}"),
            })
        })?;
        writer.write_f32(name, &values)
    })?;
    let mut written = Ok(());
    for_each_packed(model, &mut |name, packed| {
        if written.is_ok() {
            let activation = packed.activation().static_params();
            written = writer.write_quantized(name, &packed.matrix().unpack(), activation);
        }
    });
    written?;
    writer.finish(request)
}

/// The types of the float matrices of `model`, by their names.
fn float_types(model: &Transformer) -> HashMap<String, Dtype> {
    let mut types = HashMap::new();
    types.extend(stored_dtype(model.embedding_dtype()).map(|dtype| (EMBED_TOKENS.to_owned(), dtype)));
    model.for_each_linear(&mut |name, linear| {
        let dtype = linear.float_dtype().and_then(stored_dtype);
        types.extend(dtype.map(|dtype| (names::weight(name), dtype)));
    });
    types
}

/// Calls `visit` with every packed weight of `model`, that of the embedding first.
fn for_each_packed(model: &Transformer, visit: &mut dyn FnMut(&str, &PackedWeight)) {
    if let Some(table) = model.packed_embedding() {
        visit(TOKEN_TABLE, table);
    }
    model.for_each_linear(&mut |name, linear| {
        if let Some(packed) = linear.packed() {
            visit(name, packed);
        }
    });
}

/// Reserves `target` for a checkpoint before the work of creating it: checks that nothing is there (or, with
/// `overwrite`, only a directory that [`save`] would replace), that the system permits writing it, and that no other
/// process writes it while the result is alive.
///
/// # Errors
/// [`StoreError::OutputExists`], [`StoreError::OutputNotOurs`], [`StoreError::OutputLocked`],
/// [`StoreError::OutputUnwritable`].
pub fn reserve_output(target: impl AsRef<Path>, overwrite: bool) -> Result<OutputLock> {
    Ok(reserve(target.as_ref(), overwrite, CHECKPOINTS)?)
}

/// Writes a checkpoint whose tensors arrive one at a time, in any order.
///
/// The output does not exist until [`CheckpointWriter::finish`]. Dropping the writer earlier leaves nothing behind.
#[derive(Debug)]
pub struct CheckpointWriter {
    output: OutputDir,
    model: ModelConfig,
    weights: TensorFileWriter,
    weights_path: PathBuf,
    /// Names of the files that were copied into the checkpoint.
    copied: Vec<String>,
    stop: StopFlag,
}

impl CheckpointWriter {
    /// Begins a checkpoint of a model whose tensors are stored according to `layout`.
    ///
    /// # Errors
    /// `StoreError::OutputExists`, `StoreError::OutputNotOurs`, [`Error::Model`] for an invalid configuration,
    /// `StoreError::Io`.
    pub fn create(
        dir: impl AsRef<Path>,
        model: &ModelConfig,
        layout: &Layout,
        overwrite: bool,
    ) -> Result<Self> {
        let dir = dir.as_ref();
        model.validate().map_err(|source| Error::Model { path: dir.to_owned(), source })?;
        Self::with_output(OutputDir::create(dir, overwrite, CHECKPOINTS)?, model, layout)
    }

    /// Begins a checkpoint in a prepared output directory.
    pub(crate) fn with_output(output: OutputDir, model: &ModelConfig, layout: &Layout) -> Result<Self> {
        let weights_path = output.path().join(WEIGHTS);
        let weights = TensorFileWriter::create(&weights_path, &layout.specs())?;
        Ok(Self {
            output,
            model: model.clone(),
            weights,
            weights_path,
            copied: Vec::new(),
            stop: StopFlag::NEVER,
        })
    }

    /// Makes [`CheckpointWriter::finish`] fail if `stop` is set before the checkpoint is complete.
    pub fn stop_at(&mut self, stop: StopFlag) {
        self.stop = stop;
    }

    /// Copies the file `from` into the checkpoint, as `name`.
    pub(crate) fn copy_file(&mut self, name: &str, from: &Path) -> Result<()> {
        json::copy_new(from, &self.output.path().join(name), &self.stop)?;
        self.copied.push(name.to_owned());
        Ok(())
    }

    /// Writes a float tensor under its canonical name, with its type in the layout.
    ///
    /// # Errors
    /// Same as [`TensorFileWriter::write_f32`].
    pub fn write_f32(&mut self, name: &str, values: &[f32]) -> Result<()> {
        Ok(self.weights.write_f32(name, values)?)
    }

    /// Writes the quantized weight of `layer`, and the parameters of its input if these are static.
    ///
    /// # Errors
    /// `StoreError::Io`; `StoreError::Write` for a layer that was not declared in this form or was already written.
    pub fn write_quantized(
        &mut self,
        layer: &str,
        matrix: &QuantizedMatrix,
        activation: Option<QParams>,
    ) -> Result<()> {
        Ok(slm_store::layer::write(&mut self.weights, layer, matrix, activation)?)
    }

    /// Writes the other files, reads everything back once, and moves the checkpoint to its place. Returns the path of
    /// the checkpoint.
    ///
    /// # Errors
    /// Same as [`save`], and `StoreError::Stopped`.
    pub fn finish(self, request: &SaveRequest<'_>) -> Result<PathBuf> {
        self.weights.check_complete()?;
        let dir = self.output.path();
        let config = CheckpointConfig {
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.model,
            tokenizer: request.tokenizer.clone(),
            lineage: request.lineage.clone(),
            training: request.training.clone(),
        };
        let mut files = self.copied;
        files.push(WEIGHTS.to_owned());
        let further = request.extra_files.iter().map(|(name, _)| *name);
        for name in further.chain(request.large_files.iter().map(|(name, _)| *name)) {
            if !is_plain_name(name) || name == MANIFEST || versions::FILES.contains(&name) {
                let reason = "an extra file needs a name of its own in the checkpoint".to_owned();
                return Err(Error::Store(StoreError::Write { path: dir.join(name), reason }));
            }
        }
        let mut write = |name: &str, bytes: &[u8]| {
            files.push(name.to_owned());
            json::write_new(&dir.join(name), bytes)
        };
        write(CONFIG, &versions::config_bytes(&dir.join(CONFIG), &config)?)?;
        if let Some(bytes) = request.tokenizer_json {
            write(TOKENIZER, bytes)?;
        }
        if let Some(metadata) = request.metadata {
            write(METADATA, &json::to_bytes(&dir.join(METADATA), metadata)?)?;
        }
        for (name, bytes) in request.extra_files {
            write(name, bytes)?;
        }
        for (name, content) in request.large_files {
            files.push((*name).to_owned());
            json::create_new(&dir.join(name), |path| content.write_file(path))?;
        }
        let manifest_path = dir.join(MANIFEST);
        // Reads everything back. Meanwhile the checksums are computed from the files, and the system writes them to the
        // disk.
        let weights = self.weights;
        let unverified = OpenOptions { stop: self.stop.clone(), ..OpenOptions::UNVERIFIED };
        let (on_disk, (manifest, readable)) = rayon::join(
            || weights.finish(),
            || {
                rayon::join(
                    || Manifest::of(dir, Kind::Checkpoint, &files, &self.stop),
                    || Checkpoint::open_with(dir, &unverified)?.check_layers(),
                )
            },
        );
        on_disk?;
        readable?;
        json::write_new(&manifest_path, &manifest?.to_bytes(dir)?)?;
        Ok(self.output.commit()?)
    }
}
