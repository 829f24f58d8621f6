//! Export of ONNX models with explicit quantization, for ONNX Runtime and TensorRT.

mod attention;
mod builder;
mod genai;
mod graph;
mod initializer;
mod inputs;
mod linear;
mod model;
mod proto;
mod table;
mod tensorrt;
mod weights;
mod write;

use slm_checkpoint::Checkpoint;
use slm_store::{OutputDir, Replaceable, json};

use self::builder::Builder;
use self::genai::GENAI_CONFIG;
use self::graph::MICROSOFT;
use self::proto::{IR_VERSION, ModelProto, OPSET, OperatorSetIdProto, StringStringEntryProto};
use self::write::{DATA, MODEL};
use crate::float::FloatType;
use crate::hf_export::files::{self, FILES};
use crate::hf_export::{refuse_inexact, size_of};
use crate::lineage;
use crate::report::ExportReport;
use crate::source::Source;
use crate::{ExportOptions, OnnxProfile, Result, normalizer};

/// Directories that an export may replace.
pub(crate) const DIRECTORIES: Replaceable = Replaceable {
    what: "an exported ONNX directory",
    files_of: |dir| {
        let names = [MODEL, DATA, GENAI_CONFIG].into_iter().chain(FILES);
        dir.join(MODEL).exists().then(|| names.map(str::to_owned).collect())
    },
};

/// Writes `checkpoint` as a directory with an ONNX model.
pub(crate) fn export(
    output: OutputDir,
    checkpoint: &Checkpoint,
    options: &ExportOptions,
) -> Result<ExportReport> {
    let source = Source::new(checkpoint);
    let profile = options.onnx_profile;
    let mut builder = Builder::new(&source, profile, options.float_type.unwrap_or(FloatType::F32));
    builder.model()?;
    let Builder { mut graph, reports, rules, .. } = builder;
    // TensorRT does not have the operators of the other profile.
    let mut notes: Vec<String> =
        rules.note().filter(|_| profile == OnnxProfile::Standard).into_iter().collect();
    if checkpoint.tokenizer_json().is_none() {
        notes.push("the checkpoint has no tokenizer: the directory has none either".to_owned());
    }
    if let (OnnxProfile::OrtGenai, Some(json)) = (profile, checkpoint.tokenizer_json()) {
        let file: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        notes.extend(normalizer::note("onnxruntime-genai", &file["normalizer"]));
    }
    if source.has_long_rope() {
        notes.push(
            "its rotary embedding changes where a sequence outgrows the context of pretraining (LongRoPE): compute such \
             a sequence anew, without the keys that are held"
                .to_owned(),
        );
    }
    if options.strict {
        refuse_inexact(checkpoint, &reports, &[])?;
    }

    graph.proto.name = "decoder".to_owned();
    let mut opsets = vec![OperatorSetIdProto { domain: String::new(), version: OPSET }];
    if profile == OnnxProfile::OrtGenai {
        opsets.push(OperatorSetIdProto { domain: MICROSOFT.to_owned(), version: 1 });
    }
    let properties = lineage::pairs(checkpoint)?;
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "slm".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: String::new(),
        graph: None,
        opset_import: opsets,
        metadata_props: properties
            .into_iter()
            .map(|(key, value)| StringStringEntryProto { key, value })
            .collect(),
    };
    let initializers = &graph.initializers;
    write::write(output.path(), &model, &graph.proto, initializers, &source, options.external_data_above)?;
    // Fails if the weights changed while they were read.
    checkpoint.weights_sha256()?;
    files::write(checkpoint, output.path())?;
    if profile == OnnxProfile::OrtGenai {
        json::write(&output.path().join(GENAI_CONFIG), &genai::config(checkpoint))?;
    }
    let bytes = size_of(output.path())?;
    let output = output.commit()?;
    let architecture = match profile {
        OnnxProfile::Standard => format!("opset {OPSET}"),
        OnnxProfile::OrtGenai => format!("opset {OPSET} and {MICROSOFT}"),
    };
    Ok(ExportReport { output, architecture, tensors: reports, notes, bytes })
}
