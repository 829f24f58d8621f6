//! A checkpoint that is open for reading.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use slm_model::{TOKEN_TABLE, Transformer};
use slm_quant_core::{ActivationQuant, QParams, QuantizedMatrix};
use slm_store::METADATA;

use crate::layout::Layout;
use crate::manifest::Manifest;
use crate::tensors::TensorFile;
use crate::versions::{CONFIG, OpenFiles, TOKENIZER};
use crate::{
    CheckpointConfig, Error, FORMAT_VERSION, LayerMetadata, QuantizationMetadata, Result, load, tokenizer,
    versions,
};
use slm_store::Error as StoreError;

/// Options of opening a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// Compares the files with the manifest, which reads all of them once. Default: true.
    pub verify: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { verify: true }
    }
}

/// An open checkpoint: its configuration, and its tensors to be read one at a time.
///
/// Opening checks everything that can be checked without reading the weights (and with
/// [`OpenOptions::verify`] the checksums of all files): format version, configuration, names, shapes and
/// types of all tensors, quantization metadata, size of the tokenizer's vocabulary. The weights are checked
/// as they are read.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: CheckpointConfig,
    metadata: Option<QuantizationMetadata>,
    tokenizer_json: Option<Vec<u8>>,
    weights: TensorFile,
    layout: Layout,
    /// Checked against the files, where that was asked for.
    manifest: Option<Manifest>,
    version: u32,
}

impl Checkpoint {
    /// Opens and verifies the checkpoint in `dir`.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants about reading, naming the file and what is wrong with it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, &OpenOptions::default())
    }

    /// Opens the checkpoint in `dir`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(dir: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        Self::read(dir.as_ref(), options, false)
    }

    /// Opens the checkpoint in `dir` for [`Checkpoint::load_model`], which then compares the weights with the
    /// manifest while it reads them, so that they are read once. Whatever else reads a tensor compares the whole file
    /// of weights before. All other files are compared here.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_to_load(dir: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let dir = dir.as_ref();
        match Self::read(dir, options, true) {
            // That a file is damaged says more than what the damage looks like.
            Err(_) if options.verify => Self::read(dir, options, false),
            result => result,
        }
    }

    fn read(dir: &Path, options: &OpenOptions, verify_weights_when_read: bool) -> Result<Self> {
        let mut files = OpenFiles::open(dir)?;
        let manifest = if options.verify { files.verify_all_but_weights()? } else { None };
        let mut unverified = manifest.as_ref().map(|manifest| files.weights_record(manifest)).transpose()?;
        if !verify_weights_when_read && let Some(record) = unverified.take() {
            files.verify_weights(&record)?;
        }
        let version = files.version;
        let tokenizer_json = files.tokenizer_bytes.take();
        // Of the present version they are parsed as what they are; only others need to be changed before.
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

    /// Directory of the checkpoint.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version of the format that its files have. An older one than [`FORMAT_VERSION`](crate::FORMAT_VERSION)
    /// was brought up in memory, as [`MIGRATIONS`](crate::MIGRATIONS) say.
    pub fn format_version(&self) -> u32 {
        self.version
    }

    /// Its configuration.
    pub fn config(&self) -> &CheckpointConfig {
        &self.config
    }

    /// Record of the quantization; none for a float checkpoint.
    pub fn metadata(&self) -> Option<&QuantizationMetadata> {
        self.metadata.as_ref()
    }

    /// Returns `true` if any linear layer is quantized.
    pub fn is_quantized(&self) -> bool {
        self.metadata.is_some()
    }

    /// Refuses a quantized checkpoint.
    ///
    /// # Errors
    /// [`Error::NeedsFloat`].
    pub fn require_float(&self) -> Result<()> {
        match self.metadata {
            Some(_) => Err(Error::NeedsFloat { path: self.dir.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses a float checkpoint.
    ///
    /// # Errors
    /// [`Error::NeedsQuantized`].
    pub fn require_quantized(&self) -> Result<&QuantizationMetadata> {
        self.metadata.as_ref().ok_or_else(|| Error::NeedsQuantized { path: self.dir.clone() })
    }

    /// Path of its tokenizer; none for a checkpoint without.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer_json.as_ref().map(|_| self.dir.join(TOKENIZER))
    }

    /// The content of its `tokenizer.json`; none for a checkpoint without.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        self.tokenizer_json.as_deref()
    }

    /// Names of files that it holds in addition to those that every checkpoint may have, such as the state of a
    /// training that is not finished, as its manifest lists them. They are known when the checkpoint was verified.
    pub fn extra_files(&self) -> Vec<&str> {
        let names = self.manifest.iter().flat_map(|manifest| manifest.files.keys());
        names.map(String::as_str).filter(|name| !versions::FILES.contains(name)).collect()
    }

    /// Its tensors as they are stored; see [`Layout`] for their names. Read one at a time from here to
    /// inspect a checkpoint, or to quantize one that is larger than memory.
    pub fn tensors(&self) -> &TensorFile {
        &self.weights
    }

    /// Names of its tensors, in the order in which they lie in the file.
    pub fn tensor_names(&self) -> &[String] {
        self.weights.names()
    }

    /// SHA-256 of its weight file, and with it the assurance that everything read before came from one and the same
    /// content. It is that of the manifest, where the file was compared with the manifest's BLAKE3, and otherwise read again.
    ///
    /// # Errors
    /// `StoreError::Changed` where the file is not what it was when the checkpoint was opened; `StoreError::Io`.
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

    /// Reads the model onto `device`, in one pass over the weights by all threads. Quantized layers are packed for the
    /// kernel that [`KernelKind::selected`](slm_kernels::KernelKind::selected) gives.
    ///
    /// # Errors
    /// `StoreError::NotFinite` for a NaN or an infinity, `StoreError::Layer` for an invalid quantized weight,
    /// `StoreError::Metadata` for one that the metadata describes otherwise, `StoreError::Io` and
    /// `StoreError::Truncated`; `StoreError::Checksum` where that was left to this.
    pub fn load_model(&self, device: &Device) -> Result<Transformer> {
        load::load(self, device)
    }

    /// Reads the quantized weight of `layer` and how its input is treated; `None` if it is float or there
    /// is no such layer.
    ///
    /// # Errors
    /// As [`Checkpoint::load_model`].
    pub fn read_quantized(&self, layer: &str) -> Result<Option<(QuantizedMatrix, ActivationQuant)>> {
        let Some(metadata) = &self.metadata else { return Ok(None) };
        Ok(slm_store::read_quantized(&self.weights, metadata, &self.dir.join(METADATA), layer)?)
    }

    /// Reads every quantized layer and compares it with the metadata, several at once. Loading a model does the same.
    ///
    /// # Errors
    /// As [`Checkpoint::read_quantized`], for the first layer that is wrong.
    pub fn check_layers(&self) -> Result<()> {
        let layers: Vec<_> = self.metadata.iter().flat_map(|metadata| metadata.records()).collect();
        let check = |layer: &&LayerMetadata| self.read_quantized(&layer.name).map(drop);
        let outcomes: Vec<Result<()>> = layers.par_iter().map(check).collect();
        outcomes.into_iter().collect()
    }

    /// The tensors that configuration and metadata call for.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The static parameters of the input of `layer`, from the tensors; `None` if there are none.
    ///
    /// # Errors
    /// As [`Checkpoint::read_quantized`].
    pub(crate) fn static_params(&self, layer: &str) -> Result<Option<QParams>> {
        Ok(slm_store::read_static_params(&self.weights, layer)?)
    }
}

/// The tensors that configuration and metadata call for.
fn layout_of(
    config: &CheckpointConfig,
    metadata: Option<&QuantizationMetadata>,
    metadata_path: &Path,
    weights: &TensorFile,
) -> Result<Layout> {
    let mut layout = Layout::new(&config.model);
    // Other types than those of floats are refused when the layout is compared with the file.
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
        // Each name stands for one place: a table among the layers would be one that nobody reads.
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
