//! Logits of an ONNX model as rten computes them: `.ci/peers` builds this program, and tests of exports compare them with
//! slm's.
//!
//! ```text
//! onnx-rten MODEL IDS OUT
//! ```
//!
//! IDS has a sequence of token ids on each line. OUT gets the logits of every position as 32-bit floats, one sequence after
//! the other: half of a sequence in one pass, then one position at a time, with the keys and values of those before.

use std::error::Error;
use std::fs;
use std::io::{BufWriter, Write};

use rten::{Dimension, Model, NodeId, Value};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Keys or values of a layer: where they go in and come out, heads, and width of a head.
struct Past {
    input: NodeId,
    output: NodeId,
    heads: usize,
    width: usize,
}

fn past(model: &Model) -> Result<Vec<Past>> {
    let mut all = Vec::new();
    for &input in model.input_ids() {
        let info = model.node_info(input).ok_or("an input is not there")?;
        let name = info.name().ok_or("an input has no name")?;
        if !name.starts_with("past_key_values") {
            continue;
        }
        let output = model.node_id(&name.replace("past_key_values", "present"))?;
        match info.shape().as_deref() {
            Some([_, Dimension::Fixed(heads), _, Dimension::Fixed(width)]) => {
                all.push(Past { input, output, heads: *heads, width: *width });
            }
            shape => return Err(format!("{name} has the shape {shape:?}").into()),
        }
    }
    Ok(all)
}

/// The logits of `ids`, from nothing in the cache on.
fn logits(model: &Model, past: &[Past], ids: &[i32]) -> Result<Vec<f32>> {
    let (input, output) = (model.node_id("input_ids")?, model.node_id("logits")?);
    let outputs: Vec<NodeId> = std::iter::once(output).chain(past.iter().map(|past| past.output)).collect();
    let mut held: Vec<Value> =
        past.iter().map(|past| NdTensor::<f32, 4>::zeros([1, past.heads, 0, past.width]).into()).collect();
    let mut all = Vec::new();
    let (first, rest) = ids.split_at(ids.len() / 2);
    for part in std::iter::once(first).chain(rest.chunks(1)).filter(|part| !part.is_empty()) {
        let part = NdTensor::from_data([1, part.len()], part.to_vec());
        let mut inputs = vec![(input, Value::from(part).into())];
        inputs.extend(past.iter().zip(held).map(|(past, value)| (past.input, value.into())));
        let mut found = model.run(inputs, &outputs, None)?.into_iter();
        let logits: NdTensor<f32, 3> = found.next().ok_or("no logits")?.try_into()?;
        all.extend(logits.to_vec());
        held = found.collect();
    }
    Ok(all)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, ids, out] = &arguments[..] else { return Err("usage: onnx-rten MODEL IDS OUT".into()) };
    let model = Model::load_file(model)?;
    let past = past(&model)?;
    let mut out = BufWriter::new(fs::File::create(out)?);
    for line in fs::read_to_string(ids)?.lines() {
        let ids = line.split_whitespace().map(str::parse).collect::<std::result::Result<Vec<i32>, _>>()?;
        for value in logits(&model, &past, &ids)? {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(out.flush()?)
}
