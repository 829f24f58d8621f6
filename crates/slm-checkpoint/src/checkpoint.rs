//! An open checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use slm_model::{TOKEN_TABLE, Transformer};
use slm_quant_core::{ActivationQuant, QParams, QuantizedMatrix};
use slm_store::{METADATA, StopFlag};

use crate::layout::Layout;
use crate::manifest::Manifest;
use crate::tensors::TensorFile;
use crate::versions::{CONFIG, OpenFiles, TOKENIZER};
use crate::{
    CheckpointConfig, Error, FORMAT_VERSION, LayerMetadata, QuantizationMetadata, Result, load, tokenizer,
    versions,
};
use slm_store::Error as StoreError;

/// Options for opening a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// Verifies the checksums of all files, which reads each file once. Default: true.
    pub verify: bool,
    /// Stops reading the files of the checkpoint, then and later. Default: never.
    pub stop: StopFlag,
}

impl OpenOptions {
    /// Options for opening a checkpoint without verifying checksums.
    pub const UNVERIFIED: Self = Self { verify: false, stop: StopFlag::NEVER };
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { verify: true, stop: StopFlag::NEVER }
    }
}

/// An open checkpoint: its configuration, and its tensors, which are read one at a time.
///
/// Opening checks everything that does not require reading the weights (and with [`OpenOptions::verify`] the checksums
/// of all files): format version, configuration, names, shapes and types of all tensors, quantization metadata, and
/// size of the tokenizer's vocabulary. The weights are checked when they are read.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: CheckpointConfig,
    metadata: Option<QuantizationMetadata>,
    tokenizer_json: Option<Vec<u8>>,
    weights: TensorFile,
    layout: Layout,
    /// Present if the files were to be verified and the version has a manifest.
    manifest: Option<Manifest>,
    version: u32,
}

impl Checkpoint {
    /// Opens and verifies the checkpoint in `dir`.
    ///
    /// # Errors
    /// The variants of [`Error`] about reading, which name the file and the problem.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, &OpenOptions::default())
    }

    /// Opens the checkpoint in `dir`.
    ///
    /// # Errors
    /// Same as [`Checkpoint::open`].
    pub fn open_with(dir: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        Self::read(dir.as_ref(), options, false)
    }

    /// Opens the checkpoint in `dir` for [`Checkpoint::load_model`], which verifies the weights while it reads them, so
    /// that they are read only once. Any other method that reads a tensor first verifies the whole weight file. All
    /// other files are verified here.
    ///
    /// # Errors
    /// Same as [`Checkpoint::open`].
    pub fn open_to_load(dir: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let dir = dir.as_ref();
        match Self::read(dir, options, true) {
            // A checksum error says more than the symptom of the damage.
            Err(_) if options.verify => Self::read(dir, options, false),
            result => result,
        }
    }

    fn read(dir: &Path, options: &OpenOptions, verify_weights_when_read: bool) -> Result<Self> {
        let mut files = OpenFiles::open(dir, &options.stop)?;
        let manifest = if options.verify { files.verify_all_but_weights()? } else { None };
        let mut unverified = manifest.as_ref().map(|manifest| files.weights_record(manifest)).transpose()?;
        if !verify_weights_when_read && let Some(record) = unverified.take() {
            files.verify_weights(&record)?;
        }
        let version = files.version;
        let tokenizer_json = files.tokenizer_bytes.take();
        // Metadata of the current version is parsed directly; older versions are migrated first.
        let metadata_bytes = match version {
            FORMAT_VERSION => files.metadata_bytes.take(),
            _ => None,
        };
        let mut raw = files.into_raw()?;
        versions::migrate(&mut raw, version)?;

        let config_path = dir.join(CONFIG);
        let config = versions::read_config(&config_path, Value::Object(raw.config))?;
        config.model.validate().map_err(|source| Error::Model { path: config_path.clone(), source })?;
        config.tokenizer.check(&config_path, config.model.vocab_size)?;
        if let Some(bytes) = &tokenizer_json {
            tokenizer::check(&dir.join(TOKENIZER), bytes, config.model.vocab_size)?;
        }
        let metadata_path = dir.join(METADATA);
        let metadata = match (metadata_bytes, raw.metadata) {
            (Some(bytes), _) => Some(QuantizationMetadata::parse(&metadata_path, &bytes, CONFIG)?),
            (None, Some(migrated)) => {
                let migrated = QuantizationMetadata::deserialize(Value::Object(migrated));
                Some(migrated.map_err(Error::json(&metadata_path))?)
            }
            (None, None) => None,
        };
        let mut weights = raw.weights;
        if let Some(record) = unverified {
            weights.verify_when_read(record);
        }
        let layout = layout_of(&config, metadata.as_ref(), &metadata_path, &weights)?;
        layout.check(&weights, "the file and its config.json do not belong together")?;
        Ok(Self { dir: dir.to_owned(), layout, version, config, metadata, tokenizer_json, weights, manifest })
    }

    /// Returns the directory of the checkpoint.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the name of its directory, without those above it; `None` if it has none that is UTF-8.
    pub fn name(&self) -> Option<String> {
        let dir = fs::canonicalize(&self.dir).ok()?;
        Some(dir.file_name()?.to_str()?.to_owned())
    }

    /// Returns the format version of its files. If it is older than [`FORMAT_VERSION`](crate::FORMAT_VERSION), the
    /// content was migrated in memory by [`MIGRATIONS`](crate::MIGRATIONS).
    pub fn format_version(&self) -> u32 {
        self.version
    }

    /// Returns its configuration.
    pub fn config(&self) -> &CheckpointConfig {
        &self.config
    }

    /// Returns the record of the quantization; `None` for a float checkpoint.
    pub fn metadata(&self) -> Option<&QuantizationMetadata> {
        self.metadata.as_ref()
    }

    /// Returns `true` if any linear layer is quantized.
    pub fn is_quantized(&self) -> bool {
        self.metadata.is_some()
    }

    /// Rejects a quantized checkpoint.
    ///
    /// # Errors
    /// [`Error::NeedsFloat`].
    pub fn require_float(&self) -> Result<()> {
        match self.metadata {
            Some(_) => Err(Error::NeedsFloat { path: self.dir.clone() }),
            None => Ok(()),
        }
    }

    /// Rejects a float checkpoint.
    ///
    /// # Errors
    /// [`Error::NeedsQuantized`].
    pub fn require_quantized(&self) -> Result<&QuantizationMetadata> {
        self.metadata.as_ref().ok_or_else(|| Error::NeedsQuantized { path: self.dir.clone() })
    }

    /// Returns the path of its tokenizer, if it has one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer_json.as_ref().map(|_| self.dir.join(TOKENIZER))
    }

    /// Returns the content of its `tokenizer.json`, if it has one.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        self.tokenizer_json.as_deref()
    }

    /// Returns the names of additional files in its manifest, such as the state of an unfinished training. The list is
    /// empty if the checkpoint was opened without verification.
    pub fn extra_files(&self) -> Vec<&str> {
        let names = self.manifest.iter().flat_map(|manifest| manifest.files.keys());
        names.map(String::as_str).filter(|name| !versions::FILES.contains(name)).collect()
    }

    /// Returns its stored tensors; see [`Layout`] for their names. Reading them one at a time serves to inspect a
    /// checkpoint, or to quantize one that is larger than memory.
    pub fn tensors(&self) -> &TensorFile {
        &self.weights
    }

    /// Returns the names of its tensors, in file order.
    pub fn tensor_names(&self) -> &[String] {
        self.weights.names()
    }

    /// Returns the SHA-256 of its weight file, and ensures that everything read so far came from this content. The
    /// value is taken from the manifest if the file was verified, and otherwise computed.
    ///
    /// # Errors
    /// `StoreError::Changed` if the file was modified since the checkpoint was opened; `StoreError::Io`.
    pub fn weights_sha256(&self) -> Result<String> {
        let manifest = self.manifest.as_ref().filter(|_| self.weights.is_verified());
        let name = self.weights.path().file_name().and_then(|name| name.to_str());
        let found = match manifest.zip(name).and_then(|(manifest, name)| manifest.files.get(name)) {
            Some(compared) => compared.sha256.clone(),
            None => self.weights.sha256()?,
        };
        self.weights.check_unchanged()?;
        Ok(found)
    }

    /// Reads the model onto `device`, in one parallel pass over the weights. Quantized layers are packed for the kernel
    /// that [`KernelKind::selected`](slm_kernels::KernelKind::selected) returns.
    ///
    /// # Errors
    /// `StoreError::NotFinite` for a NaN or an infinity, `StoreError::Layer` for an invalid quantized weight,
    /// `StoreError::Metadata` for one that contradicts the metadata, `StoreError::Io` and `StoreError::Truncated`;
    /// `StoreError::Checksum` after [`Checkpoint::open_to_load`].
    pub fn load_model(&self, device: &Device) -> Result<Transformer> {
        load::load(self, device)
    }

    /// Reads the quantized weight of `layer` and the quantization of its input. Returns `None` if the layer is float or
    /// does not exist.
    ///
    /// # Errors
    /// Same as [`Checkpoint::load_model`].
    pub fn read_quantized(&self, layer: &str) -> Result<Option<(QuantizedMatrix, ActivationQuant)>> {
        let Some(metadata) = &self.metadata else { return Ok(None) };
        Ok(slm_store::read_quantized(&self.weights, metadata, &self.dir.join(METADATA), layer)?)
    }

    /// Reads every quantized layer and compares it with the metadata, in parallel. Loading a model does the same.
    ///
    /// # Errors
    /// Same as [`Checkpoint::read_quantized`], for the first invalid layer.
    pub fn check_layers(&self) -> Result<()> {
        let layers: Vec<_> = self.metadata.iter().flat_map(|metadata| metadata.records()).collect();
        let check = |layer: &&LayerMetadata| self.read_quantized(&layer.name).map(drop);
        let outcomes: Vec<Result<()>> = layers.par_iter().map(check).collect();
        outcomes.into_iter().collect()
    }

    /// Returns the size of all tensors in bytes.
    pub fn weight_bytes(&self) -> u64 {
        self.tensor_names().iter().filter_map(|name| self.weights.byte_size(name)).sum()
    }

    /// Returns the flag that stops reading its files.
    pub fn stop(&self) -> &StopFlag {
        self.weights.stop()
    }

    /// Returns the tensors that configuration and metadata require.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Reads the static parameters of the input of `layer`. Returns `None` if there are none.
    ///
    /// # Errors
    /// Same as [`Checkpoint::read_quantized`].
    pub(crate) fn static_params(&self, layer: &str) -> Result<Option<QParams>> {
        Ok(slm_store::read_static_params(&self.weights, layer)?)
    }
}

/// Determines the tensors that configuration and metadata require.
fn layout_of(
    config: &CheckpointConfig,
    metadata: Option<&QuantizationMetadata>,
    metadata_path: &Path,
    weights: &TensorFile,
) -> Result<Layout> {
    let mut layout = Layout::new(&config.model);
    // Types other than floats are rejected when the layout is compared with the file.
    layout.store_floats_as(|name| weights.dtype(name));
    let Some(metadata) = metadata else {
        if weights.names().iter().any(|name| name.ends_with(".weight.codes")) {
            let remedy =
                "the weights are quantized: restore it from a good copy of the checkpoint".to_owned();
            return Err(Error::Store(StoreError::Missing { path: metadata_path.to_owned(), remedy }));
        }
        return Ok(layout);
    };
    let places = (0..).map(|index| format!("layers[{index}]"));
    let layers = metadata.layers.iter().zip(places);
    let embedding = metadata.embedding.iter().map(|layer| (layer, "embedding".to_owned()));
    for (layer, place) in embedding.chain(layers) {
        let field = |name: &str| format!("{place}.{name}");
        metadata
            .activation_quant(layer)
            .map_err(|(field, expected, found)| Error::field(metadata_path, field, expected, found))?;
        // Each name belongs to one place: a table listed among the layers would never be read.
        let expects_table = place == "embedding";
        let quantized = match (layer.name == TOKEN_TABLE) == expects_table {
            true => layout.quantize(&layer.name, layer.scheme, layer.activation.is_some()),
            false => Ok(None),
        };
        match quantized.map_err(|source| {
            Error::Store(StoreError::Layer {
                path: metadata_path.to_owned(),
                layer: layer.name.clone(),
                source,
            })
        })? {
            Some(shape) if shape == layer.shape => {}
            Some(shape) => {
                let (expected, found) = (format!("{shape:?}"), format!("{:?}", layer.shape));
                return Err(Error::field(metadata_path, field("shape"), expected, found));
            }
            None => {
                let expected = match expects_table {
                    true => "\"embed_tokens\", in a model that does not tie its head to it",
                    false => "a linear layer of the model that is not named before",
                };
                return Err(Error::field(metadata_path, field("name"), expected, &layer.name));
            }
        }
    }
    Ok(layout)
}
