//! Writing of ONNX models with explicit quantization, for ONNX Runtime and TensorRT.

mod attention;
mod builder;
mod graph;
mod initializer;
mod inputs;
mod linear;
mod model;
mod proto;
mod tensorrt;
mod weights;
mod write;

use std::path::Path;

use slm_checkpoint::Checkpoint;
use slm_model::RopeScaling;
use slm_store::{OutputDir, Replaceable};

use self::builder::Builder;
use self::proto::{IR_VERSION, ModelProto, OPSET, OperatorSetIdProto, StringStringEntryProto};
use self::write::{DATA, MODEL};
use crate::float::FloatType;
use crate::hf_export::files::{self, FILES};
use crate::hf_export::{refuse_inexact, size_of};
use crate::lineage;
use crate::report::ExportReport;
use crate::source::Source;
use crate::{ExportOptions, Result};

/// Directories that an export may replace.
const DIRECTORIES: Replaceable = Replaceable {
    what: "an exported ONNX directory",
    files_of: |dir| {
        let names = [MODEL, DATA].into_iter().chain(FILES);
        dir.join(MODEL).exists().then(|| names.map(str::to_owned).collect())
    },
};

/// Writes `checkpoint` as a directory with an ONNX model.
pub(crate) fn export(checkpoint: &Checkpoint, out: &Path, options: &ExportOptions) -> Result<ExportReport> {
    let source = Source::new(checkpoint);
    let output = OutputDir::create(out, options.overwrite, DIRECTORIES)?;
    let mut builder = Builder::new(&source, options.float_type.unwrap_or(FloatType::F32));
    builder.model()?;
    let Builder { mut graph, reports, rules, .. } = builder;
    let mut notes: Vec<String> = rules.note().into_iter().collect();
    if checkpoint.tokenizer_json().is_none() {
        notes.push("the checkpoint has no tokenizer: the directory has none either".to_owned());
    }
    let is_long = |scaling: &Option<RopeScaling>| matches!(scaling, Some(RopeScaling::LongRope { .. }));
    if source.model().layers().iter().any(|layer| layer.rotary.as_ref().is_some_and(|rotary| is_long(&rotary.scaling)))
    {
        notes.push(
            "its rotary embedding changes where a sequence outgrows the context of pretraining (LongRoPE): compute such \
             a sequence anew, without the keys that are held"
                .to_owned(),
        );
    }
    if options.strict {
        refuse_inexact(checkpoint, &reports)?;
    }

    graph.proto.name = "decoder".to_owned();
    let properties = lineage::pairs(checkpoint)?;
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "slm".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: String::new(),
        graph: None,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: properties
            .into_iter()
            .map(|(key, value)| StringStringEntryProto { key, value })
            .collect(),
    };
    let initializers = &graph.initializers;
    write::write(output.path(), &model, &graph.proto, initializers, &source, options.external_data_above)?;
    // Everything was read from one and the same content.
    checkpoint.weights_sha256()?;
    files::write(checkpoint, output.path())?;
    let bytes = size_of(output.path())?;
    let output = output.commit()?;
    let architecture = format!("opset {OPSET}");
    Ok(ExportReport { output, architecture, tensors: reports, notes, bytes })
}
