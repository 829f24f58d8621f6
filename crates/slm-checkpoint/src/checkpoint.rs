//! A checkpoint that is open for reading.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use slm_model::Transformer;
use slm_quant_core::{ActivationQuant, KernelKind, QParams, QuantizedMatrix};

use crate::layout::{Layout, names, read_matrix};
use crate::manifest::{MANIFEST, Manifest};
use crate::source::CheckpointSource;
use crate::tensors::TensorFile;
use crate::versions::{CONFIG, METADATA, TOKENIZER, WEIGHTS};
use crate::{
    CheckpointConfig, Error, LayerMetadata, METADATA_VERSION, QuantizationMetadata, Result, json, tokenizer,
    versions,
};

/// What to do beside the necessary when a checkpoint is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// Whether the files are compared with the manifest, which reads all of them once. Default: true.
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
        let dir = dir.as_ref();
        check_is_dir(dir)?;
        let config_path = dir.join(CONFIG);
        let Some(config_bytes) = json::read_optional(&config_path, json::SMALL)? else {
            return Err(Error::NotACheckpoint {
                path: dir.to_owned(),
                reason: format!("it has no {CONFIG}"),
                remedy: "name the directory of a checkpoint".to_owned(),
            });
        };
        // Before the checksums, which a newer format may keep elsewhere.
        let config = versions::read_config(dir, &config_bytes)?;
        let weights_path = dir.join(WEIGHTS);
        let mut weights = open_weights(&weights_path)?;
        let metadata_path = dir.join(METADATA);
        let metadata_bytes = json::read_optional(&metadata_path, json::LARGE)?;
        let tokenizer_path = dir.join(TOKENIZER);
        let tokenizer_json = json::read_optional(&tokenizer_path, json::LARGE)?;

        if options.verify {
            let manifest = Manifest::read(dir)?;
            manifest.verify_bytes(dir, CONFIG, &config_bytes)?;
            for (name, bytes) in [(METADATA, &metadata_bytes), (TOKENIZER, &tokenizer_json)] {
                match bytes {
                    Some(bytes) => manifest.verify_bytes(dir, name, bytes)?,
                    None if manifest.files.contains_key(name) => return Err(lost(&dir.join(name))),
                    None => {}
                }
            }
            manifest.verify_open(dir, WEIGHTS, &mut weights)?;
            for name in manifest.files.keys().filter(|name| !versions::FILES.contains(&name.as_str())) {
                let path = dir.join(name);
                let mut file = File::open(&path).map_err(|_| lost(&path))?;
                manifest.verify_open(dir, name, &mut file)?;
            }
        }

        config.model.validate().map_err(|source| Error::Model { path: config_path.clone(), source })?;
        config.tokenizer.check(&config_path, config.model.vocab_size)?;
        if let Some(bytes) = &tokenizer_json {
            tokenizer::check(&tokenizer_path, bytes, config.model.vocab_size)?;
        }
        let metadata = match &metadata_bytes {
            Some(bytes) => Some(read_metadata(&metadata_path, bytes)?),
            None => None,
        };
        let weights = TensorFile::from_file(&weights_path, weights)?;
        let layout = layout_of(&config, metadata.as_ref(), &metadata_path, &weights)?;
        layout.check(&weights, "the file and its config.json do not belong together")?;
        Ok(Self { dir: dir.to_owned(), config, metadata, tokenizer_json, weights })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its configuration.
    pub fn config(&self) -> &CheckpointConfig {
        &self.config
    }

    /// How it was quantized; none for a float checkpoint.
    pub fn metadata(&self) -> Option<&QuantizationMetadata> {
        self.metadata.as_ref()
    }

    /// Whether any linear layer is quantized.
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

    /// Where its tokenizer is; none for a checkpoint without.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer_json.as_ref().map(|_| self.dir.join(TOKENIZER))
    }

    /// The content of its `tokenizer.json`; none for a checkpoint without.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        self.tokenizer_json.as_deref()
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

    /// SHA-256 of its weight file, read anew.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn weights_sha256(&self) -> Result<String> {
        let manifest = Manifest::of(&self.dir, &[WEIGHTS.to_owned()])?;
        Ok(manifest.files.into_values().map(|record| record.sha256).collect())
    }

    /// Reads the model onto `device`, one tensor at a time. Quantized layers are packed for the kernel that
    /// [`KernelKind::select`] gives.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or an infinity, [`Error::Layer`] for an invalid quantized weight,
    /// [`Error::Metadata`] for one that the metadata describes otherwise, [`Error::Kernel`] for a kernel
    /// that cannot be had, [`Error::Io`] and [`Error::Truncated`].
    pub fn load_model(&self, device: &Device) -> Result<Transformer> {
        let kernel = KernelKind::select().map_err(|source| Error::Kernel { source })?;
        let mut source = CheckpointSource::new(self, kernel);
        let model = Transformer::from_tensors(&self.config.model, &mut source, device);
        model.map_err(|error| Error::from_model(&self.dir, error))
    }

    /// Reads the quantized weight of `layer` and how its input is treated; none where it is float or there
    /// is no such layer.
    ///
    /// # Errors
    /// As [`Checkpoint::load_model`].
    pub fn read_quantized(&self, layer: &str) -> Result<Option<(QuantizedMatrix, ActivationQuant)>> {
        let Some(metadata) = &self.metadata else { return Ok(None) };
        let Some(record) = metadata.layer(layer) else { return Ok(None) };
        let matrix = read_matrix(&self.weights, layer, record.shape, record.scheme)?;
        let activation = self.read_activation(record)?;
        if let Some((field, expected, found)) = record.disagreement(&matrix, activation) {
            let path = self.dir.join(METADATA);
            return Err(Error::Metadata { path, layer: layer.to_owned(), field, expected, found });
        }
        let quant = metadata.activation_quant(record).map_err(|(field, expected, found)| {
            Error::field(&self.dir.join(METADATA), field, expected, found)
        })?;
        Ok(Some((matrix, quant)))
    }

    /// Reads every quantized layer and compares it with the metadata. Loading a model does the same.
    ///
    /// # Errors
    /// As [`Checkpoint::read_quantized`].
    pub fn check_layers(&self) -> Result<()> {
        let layers = self.metadata.iter().flat_map(|metadata| &metadata.layers);
        for layer in layers {
            self.read_quantized(&layer.name)?;
        }
        Ok(())
    }

    /// The static parameters of a layer's input, from the tensors.
    fn read_activation(&self, record: &LayerMetadata) -> Result<Option<QParams>> {
        let name = names::input_scale(&record.name);
        if self.weights.shape(&name).is_none() {
            return Ok(None);
        }
        let scale = self.weights.read_f32(&name)?.first().copied().unwrap_or(0.0);
        let zero_point = self.weights.read_bytes(&names::input_zero_point(&record.name))?;
        let zero_point = zero_point.first().copied().map_or(0, i32::from);
        if scale <= 0.0 {
            return Err(Error::Layer {
                path: self.weights.path().to_owned(),
                layer: record.name.clone(),
                source: slm_quant_core::Error::Parameter {
                    what: "input scale",
                    detail: format!("value {scale} is not positive"),
                },
            });
        }
        Ok(Some(QParams { scale, zero_point }))
    }
}

fn check_is_dir(dir: &Path) -> Result<()> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::NotACheckpoint {
            path: dir.to_owned(),
            reason: "it is not a directory".to_owned(),
            remedy: "name the directory of a checkpoint".to_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let remedy = "name the directory of a checkpoint".to_owned();
            Err(Error::Missing { path: dir.to_owned(), remedy })
        }
        Err(error) => Err(Error::io(dir, "look at")(error)),
    }
}

fn open_weights(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => lost(path),
        _ => Error::io(path, "open")(error),
    })
}

fn lost(path: &Path) -> Error {
    let remedy =
        format!("{MANIFEST} and {CONFIG} call for it: restore it from a good copy of the checkpoint");
    Error::Missing { path: path.to_owned(), remedy }
}

fn read_metadata(path: &Path, bytes: &[u8]) -> Result<QuantizationMetadata> {
    /// What is read first, so that a newer version is told apart from a damaged file.
    #[derive(serde::Deserialize)]
    struct Header {
        format_version: u64,
        #[serde(default)]
        program_version: String,
    }
    let header: Header = json::parse(path, bytes)?;
    let newest = u64::from(METADATA_VERSION);
    match header.format_version {
        found if found > newest => Err(Error::NewerVersion {
            path: path.to_owned(),
            found,
            newest,
            written_by: header.program_version,
        }),
        found if found < newest => {
            Err(Error::UnknownVersion { path: path.to_owned(), found, known: newest.to_string() })
        }
        _ => json::parse(path, bytes),
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
    let Some(metadata) = metadata else {
        if weights.names().iter().any(|name| name.ends_with(".weight.codes")) {
            let remedy =
                "the weights are quantized: restore it from a good copy of the checkpoint".to_owned();
            return Err(Error::Missing { path: metadata_path.to_owned(), remedy });
        }
        return Ok(layout);
    };
    for (index, layer) in metadata.layers.iter().enumerate() {
        let field = |name: &str| format!("layers[{index}].{name}");
        metadata
            .activation_quant(layer)
            .map_err(|(field, expected, found)| Error::field(metadata_path, field, expected, found))?;
        let quantized = layout.quantize(&layer.name, layer.scheme, layer.activation.is_some());
        match quantized.map_err(|source| Error::Layer {
            path: metadata_path.to_owned(),
            layer: layer.name.clone(),
            source,
        })? {
            Some(shape) if shape == layer.shape => {}
            Some(shape) => {
                let (expected, found) = (format!("{shape:?}"), format!("{:?}", layer.shape));
                return Err(Error::field(metadata_path, field("shape"), expected, found));
            }
            None => {
                let expected = "a linear layer of the model that is not named before";
                return Err(Error::field(metadata_path, field("name"), expected, &layer.name));
            }
        }
    }
    Ok(layout)
}
