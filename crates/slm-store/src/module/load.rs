//! Loading of modules.

use std::fs::File;
use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use slm_nn::{Linear, NamedLinears, Weight, try_for_each_linear, try_for_each_linear_mut};

use super::parameters::{self, Fill, Parameter, filled, for_each_parameter, refused};
use super::{CONFIG, LoadOptions, LoadReport};
use crate::layer::{QuantizedForm, check_specs, names};
use crate::manifest::{Kind, MANIFEST, Manifest};
use crate::tensors::PositionedFile;
use crate::{
    Error, LoadedTensors, METADATA, QuantizationMetadata, Result, TensorFile, TensorSpec, WEIGHTS, json,
    read_quantized,
};

/// Loads the module that [`save_module`](super::save_module) wrote to `dir` into `module`.
///
/// The module must have the same parameters, by name, shape and type. Its linears may be float or packed: loading
/// restores their saved form exactly. Devices, ids and gradient settings stay those of the module; a packed layer that
/// becomes float goes to the device of the module's other parameters.
///
/// # Errors
/// After an error, the module is unchanged. [`Error::WrongKind`] for a directory of another kind; [`Error::Checksum`],
/// [`Error::Truncated`], [`Error::Header`] or [`Error::Json`] for damaged files, and [`Error::Damaged`] if the lost
/// tensors are known; [`Error::TensorSet`], [`Error::Shape`] or [`Error::TensorType`] for the tensors of a different
/// module; [`Error::Module`] for a module with a linear that is not named or is in training; [`Error::Layer`] and
/// [`Error::Metadata`] for invalid quantized weights; [`Error::Missing`], [`Error::Io`].
pub fn load_module<M: Module + NamedLinears>(
    module: &mut M,
    dir: impl AsRef<Path>,
    options: &LoadOptions,
) -> Result<LoadReport> {
    parameters::check_linears(module)?;
    let source = Source::open(dir.as_ref(), options)?;
    source.check_tensors(module)?;
    // All errors in the files are found here, before anything is changed: some of Burn's modules share state with their
    // clones.
    let mut tensors = LoadedTensors::read(&source.weights, source.metadata.as_ref(), &source.metadata_path)?;
    let device = module.devices().into_iter().next().unwrap_or_default();
    // Applies pending updates of running statistics, which would otherwise be added to the loaded ones.
    drop(module.valid());
    let mut loaded = module.clone();
    try_for_each_linear_mut(&mut loaded, |name, linear| fill_linear(&mut tensors, name, linear, &device))?;
    let mut fill = Fill::new(&mut tensors);
    let loaded = Module::map(loaded, &mut fill);
    fill.result?;
    *module = loaded;
    let metadata = source.metadata;
    let quantized = metadata.iter().flat_map(|metadata| &metadata.layers).map(|layer| layer.name.clone());
    Ok(LoadReport { quantized: quantized.collect(), metadata })
}

fn fill_linear(
    tensors: &mut LoadedTensors<'_>,
    name: &str,
    linear: &mut Linear,
    device: &Device,
) -> Result<()> {
    if let Some(bias) = linear.bias.take() {
        let tensor = filled(tensors, &names::bias(name), &bias)?;
        let id = bias.id;
        linear.bias = Some(bias.transform_for_load(tensor, id));
    }
    if let Some(weight) = tensors.take_weight(name) {
        linear.weight = weight;
        return Ok(());
    }
    let name = names::weight(name);
    let weight = match &linear.weight {
        Weight::Float(weight) => {
            let tensor = filled(tensors, &name, weight)?;
            weight.clone().transform_for_load(tensor, weight.id)
        }
        Weight::Packed(_) | Weight::FakeQuantized(_) | Weight::QuantizedTrainable(_) => {
            let data = burn::tensor::TensorData::new(tensors.take_f32(&name)?, linear.weight.dims());
            Param::from_tensor(Tensor::from_data(data, device))
        }
    };
    linear.weight = Weight::Float(weight);
    Ok(())
}

/// An open saved module.
pub(super) struct Source {
    weights: TensorFile,
    metadata: Option<QuantizationMetadata>,
    metadata_path: PathBuf,
}

impl Source {
    /// Opens the module in `dir`, and verifies the checksums of its files if requested.
    pub(super) fn open(dir: &Path, options: &LoadOptions) -> Result<Self> {
        const REMEDY: &str = "name a directory that `slm::save` wrote";
        let remedy = || REMEDY.to_owned();
        if dir.is_file() {
            let (path, found) = (dir.to_owned(), "a file".to_owned());
            return Err(Error::WrongKind {
                path,
                found,
                expected: "the directory of a module",
                remedy: REMEDY,
            });
        }
        if !dir.is_dir() {
            return Err(Error::Missing { path: dir.to_owned(), remedy: remedy() });
        }
        let wrong_kind = || Error::WrongKind {
            path: dir.to_owned(),
            found: "a checkpoint of slm's own model".to_owned(),
            expected: "a module",
            remedy: "open it with `slm_checkpoint::Checkpoint` or the program slm",
        };
        if dir.join(CONFIG).exists() {
            return Err(wrong_kind());
        }
        let manifest_path = dir.join(MANIFEST);
        let Some(bytes) = json::read_optional(&manifest_path, json::SMALL)? else {
            return Err(Error::Missing { path: manifest_path, remedy: remedy() });
        };
        let manifest = Manifest::parse(dir, &bytes)?;
        if manifest.kind != Kind::Module {
            return Err(wrong_kind());
        }
        let (weights_path, metadata_path) = (dir.join(WEIGHTS), dir.join(METADATA));
        let metadata_bytes = match manifest.files.contains_key(METADATA) {
            true => Some(json::read(&metadata_path, json::LARGE, "restore it from a good copy")?),
            false => None,
        };
        let open = |path: &Path| match File::open(path) {
            Ok(file) => Ok(PositionedFile::new(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let remedy = format!("{MANIFEST} calls for it: restore it from a good copy");
                Err(Error::Missing { path: path.to_owned(), remedy })
            }
            Err(error) => Err(Error::io(path, "open")(error)),
        };
        let weights = open(&weights_path)?;
        if options.verify {
            let verified = manifest.verify_file(dir, WEIGHTS, &weights);
            verified.map_err(|error| lost_tensors(&weights_path, &weights).unwrap_or(error))?;
            if let Some(bytes) = &metadata_bytes {
                manifest.verify_bytes(dir, METADATA, bytes)?;
            }
            for name in manifest.files.keys().filter(|name| ![WEIGHTS, METADATA].contains(&name.as_str())) {
                manifest.verify_file(dir, name, &open(&dir.join(name))?)?;
            }
        }
        let metadata = match metadata_bytes {
            Some(bytes) => Some(QuantizationMetadata::parse_migrating(&metadata_path, &bytes, MANIFEST)?),
            None => None,
        };
        let weights = TensorFile::safetensors(&weights_path, weights)?;
        Ok(Self { weights, metadata, metadata_path })
    }

    /// Checks that the file has exactly the tensors of `module`, with layers quantized as the metadata states.
    fn check_tensors<M: Module + NamedLinears>(&self, module: &M) -> Result<()> {
        let mut specs = Vec::new();
        let mut unknown: Vec<&str> = Vec::new();
        if let Some(metadata) = &self.metadata {
            unknown.extend(metadata.layers.iter().map(|layer| layer.name.as_str()));
        }
        let mut float_layers = Vec::new();
        try_for_each_linear(module, |name, linear| {
            unknown.retain(|unknown| *unknown != name);
            match self.form_of(name, linear)? {
                Some(form) => specs.extend(form.specs(name)),
                None => float_layers.push((names::weight(name), linear.weight.dims())),
            }
            Ok::<_, Error>(())
        })?;
        if let Some(name) = unknown.first() {
            let expected = "layers of the module, which must have the same parts as the saved one";
            return Err(Error::field(&self.metadata_path, "layers", expected, format!("{name:?}")));
        }
        // A layer that is float in the module and quantized in the file has different tensors than the module.
        let quantized: Vec<String> = self
            .metadata
            .iter()
            .flat_map(|metadata| &metadata.layers)
            .map(|layer| names::weight(&layer.name))
            .collect();
        for_each_parameter(module, &mut |parameter: Parameter<'_>| {
            if !quantized.iter().any(|name| name == parameter.name) {
                float_layers.retain(|(name, _)| name != parameter.name);
                specs.push(parameter.spec()?);
            }
            Ok(())
        })?;
        // The remaining layers are packed in the module and float in the file.
        let packed = float_layers.into_iter();
        specs.extend(packed.map(|(name, shape)| TensorSpec::new(name, safetensors::Dtype::F32, shape)));
        check_specs(
            &self.weights,
            &specs,
            "the file is not of this module: check the directory and the module's sizes",
        )
    }

    /// Returns the stored form of a layer according to the metadata; `None` for a float layer.
    fn form_of(&self, name: &str, linear: &Linear) -> Result<Option<QuantizedForm>> {
        let Some(record) = self.metadata.as_ref().and_then(|metadata| metadata.layer(name)) else {
            return Ok(None);
        };
        let shape = linear.weight.dims();
        if record.shape != shape {
            let field = format!("layers[{name:?}].shape");
            let found = format!("{:?}", record.shape);
            return Err(Error::field(
                &self.metadata_path,
                field,
                format!("{shape:?}, as in the module"),
                found,
            ));
        }
        QuantizedForm::new(shape, record.scheme, record.activation.is_some()).map(Some).map_err(|source| {
            Error::Layer { path: self.metadata_path.clone(), layer: name.to_owned(), source }
        })
    }

    /// Reads the quantized layers as [`load_module`] would, to check them.
    pub(super) fn check<M: Module + NamedLinears>(&self, module: &M) -> Result<()> {
        self.check_tensors(module)?;
        try_for_each_linear(module, |name, linear| match linear.packed() {
            Some(packed) => self.check_layer(name, packed),
            None => Ok(()),
        })
    }

    fn check_layer(&self, name: &str, packed: &slm_nn::PackedWeight) -> Result<()> {
        let read = match &self.metadata {
            Some(metadata) => read_quantized(&self.weights, metadata, &self.metadata_path, name)?,
            None => None,
        };
        match read {
            Some((matrix, activation))
                if activation == packed.activation() && matrix == packed.matrix().unpack() =>
            {
                Ok(())
            }
            _ => Err(refused(name, "the metadata of its quantization is not that of the layer")),
        }
    }
}

/// Returns the error that names the tensors beyond the end of a truncated file; `None` for a file that is as long as
/// its header requires, or whose header cannot be read.
fn lost_tensors(path: &Path, file: &PositionedFile) -> Option<Error> {
    let (lost, expected, found) = TensorFile::beyond_the_end(file)?;
    let tensors = lost.join(", ");
    Some(Error::Damaged { path: path.to_owned(), tensors, expected, found })
}
