//! Writing of GGUF files.

mod encode;
mod plan;

use slm_checkpoint::Checkpoint;
use slm_store::{Error as StoreError, OutputFile};

use self::plan::Plan;
use crate::gguf::{GgufWriter, TensorDecl, Value};
use crate::lineage;
use crate::llama_cpp::arch::Arch;
use crate::llama_cpp::{keys, tokenizer};
use crate::report::{ExportReport, TensorReport};
use crate::source::Source;
use crate::{Error, ExportOptions, Result};

/// Writes `checkpoint` as a file for llama.cpp.
pub(crate) fn export(
    output: OutputFile,
    checkpoint: &Checkpoint,
    options: &ExportOptions,
) -> Result<ExportReport> {
    let source = Source::new(checkpoint);
    let model = source.model();
    let arch = Arch::choose(model, source.hugging_face_architecture())
        .map_err(|reason| Error::not_in_format(checkpoint.dir(), reason))?;
    let plan = Plan::new(&source, arch, options.float_type)?;
    let mut notes = plan.notes.clone();

    let name = name_of(checkpoint);
    let mut pairs: Vec<(String, Value)> = vec![
        ("general.architecture".to_owned(), arch.name().into()),
        ("general.type".to_owned(), "model".into()),
        ("general.name".to_owned(), name.as_str().into()),
        ("general.quantization_version".to_owned(), Value::U32(2)),
        ("general.file_type".to_owned(), Value::U32(plan.file_type())),
    ];
    pairs.extend(keys::keys(arch, model));
    match checkpoint.tokenizer_json() {
        Some(json) => {
            let path = checkpoint.tokenizer_path().unwrap_or_else(|| checkpoint.dir().to_owned());
            let keys = tokenizer::keys(&path, json, &checkpoint.config().tokenizer, model.vocab_size, &name)?;
            pairs.extend(keys.pairs);
            notes.extend(keys.notes);
        }
        None => {
            pairs.push(("tokenizer.ggml.model".to_owned(), "none".into()));
            notes.push("the checkpoint has no tokenizer: the file takes and gives ids only".to_owned());
        }
    }
    pairs.extend(lineage::pairs(checkpoint)?.into_iter().map(|(key, text)| (key, Value::from(text))));
    if options.strict {
        plan.refuse_inexact(checkpoint)?;
    }

    let declared = plan.tensors.iter().map(|tensor| TensorDecl {
        name: tensor.name.clone(),
        kind: tensor.kind,
        shape: tensor.shape.clone(),
    });
    let mut writer = GgufWriter::create(&output.path(), &pairs, declared.collect())?;
    for tensor in &plan.tensors {
        writer.write(&tensor.name, &encode::encode(&source, tensor)?)?;
    }
    writer.finish()?;
    // Fails if the weights changed while they were read.
    checkpoint.weights_sha256()?;
    let bytes =
        std::fs::metadata(output.path()).map_err(StoreError::io(&output.path(), "read the size"))?.len();
    let output = output.commit()?;
    Ok(ExportReport {
        output,
        architecture: arch.name().to_owned(),
        tensors: plan.tensors.into_iter().map(TensorReport::from).collect(),
        notes,
        bytes,
    })
}

/// Returns the human-readable name: that of the directory.
///
/// llama.cpp strips spaces after special tokens in models whose name contains `phi-3` or `phi3`, and fails if they lack
/// the tokens of Phi-3. Other models must not have such a name.
fn name_of(checkpoint: &Checkpoint) -> String {
    let dir = checkpoint.dir().canonicalize();
    let dir = dir.as_deref().unwrap_or(checkpoint.dir());
    let name = dir.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
    let is_phi3 = tokenizer::is_named_phi3(&name);
    match is_phi3 && !checkpoint.tokenizer_json().is_some_and(tokenizer::strips_right) {
        true => name.to_ascii_lowercase().replace("phi-3", "phi 3").replace("phi3", "phi 3"),
        false => name,
    }
}
