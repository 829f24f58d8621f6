//! Batches of tensors, each of which is quantized while the one before it is written.

use rayon::prelude::*;
use slm_checkpoint::{CheckpointWriter, LayerMetadata};
use slm_model::{ExpectedTensor, TOKEN_TABLE};
use slm_quant_core::QuantizationType;

use super::sinks::WriterSink;
use super::stopped::Stopped;
use crate::embedding::QuantizedTable;
use crate::{LayerReport, QuantizedLayer, Result, layer_metadata};

/// A tensor that is ready to be written.
pub(super) enum Finished {
    /// The quantized table of the embedding.
    Table(Box<QuantizedTable>),
    /// A quantized layer.
    Layer(Box<QuantizedLayer>),
    /// A float tensor by name.
    Float(String, Vec<f32>),
}

/// The part of a written tensor that stays in memory.
enum Written {
    Table(Box<QuantizedTable>),
    Layer(Box<(LayerReport, LayerMetadata)>),
    Float,
}

/// Finishes `tensors` in batches and writes them in their order. Returns the embedding, if it is among them.
pub(super) fn write_in_batches<E>(
    sink: &mut WriterSink<'_, E>,
    tensors: &[ExpectedTensor],
    finish: &(dyn Fn(&ExpectedTensor) -> Result<Finished> + Sync),
) -> Result<Option<QuantizedTable>, Stopped<E>> {
    // Collected so that the error of the first tensor wins, whichever thread finishes first.
    let run = |batch: &[ExpectedTensor]| batch.par_iter().map(finish).collect::<Vec<Result<Finished>>>();
    let mut embedding = None;
    let mut rest = batches(tensors).into_iter();
    sink.report()?;
    let mut current = rest.next().map(run);
    while let Some(finished) = current {
        let (writer, quantization_type, next) = (&mut sink.writer, sink.quantization_type, rest.next());
        let (written, following) =
            rayon::join(|| write(writer, quantization_type, finished), || next.map(run));
        for written in written? {
            match written {
                Written::Float => {}
                Written::Table(table) => embedding = Some(*table),
                Written::Layer(layer) => {
                    sink.push(layer.0, layer.1);
                    sink.report()?;
                }
            }
        }
        current = following;
    }
    Ok(embedding)
}

/// Runs of tensors with a total size of at most that of the largest tensor.
fn batches(tensors: &[ExpectedTensor]) -> Vec<&[ExpectedTensor]> {
    let size = |tensor: &ExpectedTensor| tensor.shape.iter().product::<usize>();
    let most = tensors.iter().map(size).max().unwrap_or(0);
    let mut batches = Vec::new();
    let mut rest = tensors;
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = rest.iter().take_while(|tensor| {
            sum += size(tensor);
            sum <= most
        });
        let (batch, others) = rest.split_at(fits.count().max(1));
        batches.push(batch);
        rest = others;
    }
    batches
}

fn write(
    writer: &mut CheckpointWriter,
    quantization_type: QuantizationType,
    finished: Vec<Result<Finished>>,
) -> Result<Vec<Written>> {
    let one = |finished: Result<Finished>| {
        Ok(match finished? {
            Finished::Table(table) => {
                writer.write_quantized(TOKEN_TABLE, &table.matrix, None)?;
                Written::Table(table)
            }
            Finished::Layer(layer) => {
                let QuantizedLayer { matrix, activation, report } = *layer;
                writer.write_quantized(&report.name, &matrix, activation.static_params())?;
                let record = layer_metadata(&report, &matrix, quantization_type);
                Written::Layer(Box::new((report, record)))
            }
            Finished::Float(name, values) => {
                writer.write_f32(&name, &values)?;
                Written::Float
            }
        })
    };
    finished.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_batch_is_larger_than_the_largest_tensor() {
        let tensor = |size: usize| ExpectedTensor {
            name: size.to_string(),
            shape: vec![size, 2],
            linear_weight: true,
        };
        let tensors: Vec<ExpectedTensor> = [10, 3, 4, 3, 1, 9, 2].map(tensor).to_vec();
        let sizes: Vec<Vec<usize>> =
            batches(&tensors).iter().map(|batch| batch.iter().map(|t| t.shape[0]).collect()).collect();
        assert_eq!(sizes, [vec![10], vec![3, 4, 3], vec![1, 9], vec![2]]);
        assert!(batches(&[]).is_empty());
    }
}
