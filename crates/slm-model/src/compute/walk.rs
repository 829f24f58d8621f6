//! The walk through a model, written once for every [`Compute`].

use burn::tensor::{Int, Tensor};
use slm_nn::Linear;

use super::{Around, Compute, Embedding, HeadParts, LayerParts, ModelParts};
use crate::names::LM_HEAD;
use crate::norm::Norm;

/// A layer in the form that `C` takes.
pub(crate) type LayerOf<'w, C> = LayerParts<<C as Compute>::Linear<'w>, <C as Compute>::Norm<'w>>;
/// A model in the form that `C` takes.
pub(crate) type ModelOf<'w, C> = ModelParts<<C as Compute>::Linear<'w>, <C as Compute>::Norm<'w>>;

/// Prepares layer `index` for `compute`, with KV cache `slot`.
pub(crate) fn prepare_layer<'w, C: Compute>(
    compute: &C,
    index: usize,
    slot: usize,
    parts: LayerParts<&'w Linear, &'w Norm>,
) -> Result<LayerOf<'w, C>, C::Error> {
    parts.try_map(
        slot,
        |linear, name| compute.linear(linear, &format!("layers.{index}.{name}")),
        |norm| compute.norm(norm),
    )
}

/// Prepares a model for `compute`.
pub(crate) fn prepare<'w, C: Compute>(
    compute: &C,
    parts: ModelParts<&'w Linear, &'w Norm>,
) -> Result<ModelOf<'w, C>, C::Error> {
    let layers = parts.layers.into_iter().enumerate();
    Ok(ModelParts {
        embedding: parts.embedding,
        layers: layers
            .map(|(index, layer)| prepare_layer(compute, index, index, layer))
            .collect::<Result<_, _>>()?,
        norm: compute.norm(parts.norm)?,
        head: prepare_head(compute, parts.head)?,
        logit_multiplier: parts.logit_multiplier,
    })
}

/// Prepares a head for `compute`.
pub(crate) fn prepare_head<'w, C: Compute>(
    compute: &C,
    head: HeadParts<&'w Linear>,
) -> Result<HeadParts<C::Linear<'w>>, C::Error> {
    Ok(match head {
        HeadParts::Linear(linear) => HeadParts::Linear(compute.linear(linear, LM_HEAD)?),
        HeadParts::Tied(embedding) => HeadParts::Tied(embedding),
    })
}

/// The residual stream before the first layer.
pub(crate) fn embed<C: Compute>(
    compute: &mut C,
    embedding: &Embedding,
    ids: Tensor<2, Int>,
) -> Result<C::Stream, C::Error> {
    let mut stream = compute.embed(&embedding.tokens, ids)?;
    if embedding.multiplier != 1.0 {
        compute.scale(&mut stream, embedding.multiplier)?;
    }
    if let Some(positions) = &embedding.positions {
        let rows = compute.positions(positions)?;
        compute.add(&mut stream, rows, 1.0)?;
    }
    Ok(stream)
}

/// A part of a layer that reads and writes the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerPart {
    /// Attention with its norms.
    Attention,
    /// The MLP with its norms.
    Mlp,
    /// The whole layer.
    Whole,
}

/// Runs the stream through one layer.
pub(crate) fn layer<'w, C: Compute>(
    compute: &mut C,
    layer: &LayerOf<'w, C>,
    stream: &mut C::Stream,
) -> Result<(), C::Error> {
    if layer.spec.parallel_residual {
        let factor = layer.spec.residual_multiplier;
        let x = compute.read(stream, layer.attention_norms.input.as_ref())?;
        let mlp_x = compute.read(stream, layer.mlp_norms.input.as_ref())?;
        let y = attention(compute, layer, x)?;
        let y = normalized(compute, y, &layer.attention_norms)?;
        let mlp_y = mlp(compute, layer, mlp_x)?;
        let mlp_y = normalized(compute, mlp_y, &layer.mlp_norms)?;
        compute.add(stream, y, factor)?;
        return compute.add(stream, mlp_y, factor);
    }
    layer_part(compute, layer, LayerPart::Attention, stream)?;
    layer_part(compute, layer, LayerPart::Mlp, stream)
}

/// Runs the stream through a part of a layer. A layer whose attention and MLP read the same stream runs as a whole,
/// whatever the part.
pub(crate) fn layer_part<'w, C: Compute>(
    compute: &mut C,
    layer: &LayerOf<'w, C>,
    part: LayerPart,
    stream: &mut C::Stream,
) -> Result<(), C::Error> {
    let Some((y, norms)) = part_product(compute, layer, part, stream)? else {
        return self::layer(compute, layer, stream);
    };
    let y = normalized(compute, y, norms)?;
    compute.add(stream, y, layer.spec.residual_multiplier)
}

/// The output of the last linear layer of a part, and the norms around the part.
pub(crate) type PartProduct<'l, 'w, C> = (<C as Compute>::Value, &'l Around<<C as Compute>::Norm<'w>>);

/// The output of the last linear layer of a part of a layer, and the norms around the part. `None` for a whole layer,
/// and if attention and MLP read the same stream.
pub(crate) fn part_product<'l, 'w, C: Compute>(
    compute: &mut C,
    layer: &'l LayerOf<'w, C>,
    part: LayerPart,
    stream: &mut C::Stream,
) -> Result<Option<PartProduct<'l, 'w, C>>, C::Error> {
    match part {
        _ if layer.spec.parallel_residual => Ok(None),
        LayerPart::Whole => Ok(None),
        LayerPart::Attention => {
            let norms = &layer.attention_norms;
            let x = compute.read(stream, norms.input.as_ref())?;
            Ok(Some((attention(compute, layer, x)?, norms)))
        }
        LayerPart::Mlp => {
            let norms = &layer.mlp_norms;
            let x = compute.read(stream, norms.input.as_ref())?;
            Ok(Some((mlp(compute, layer, x)?, norms)))
        }
    }
}

fn normalized<'w, C: Compute>(
    compute: &mut C,
    y: C::Value,
    norms: &Around<C::Norm<'w>>,
) -> Result<C::Value, C::Error> {
    match &norms.output {
        Some(norm) => compute.normalize(y, norm),
        None => Ok(y),
    }
}

fn attention<'w, C: Compute>(
    compute: &mut C,
    layer: &LayerOf<'w, C>,
    x: C::Value,
) -> Result<C::Value, C::Error> {
    let qkv = compute.linears(x, [&layer.q_proj, &layer.k_proj, &layer.v_proj])?;
    let heads = compute.attend(qkv, layer)?;
    let [y] = compute.linears(heads, [&layer.o_proj])?;
    Ok(y)
}

fn mlp<'w, C: Compute>(compute: &mut C, layer: &LayerOf<'w, C>, x: C::Value) -> Result<C::Value, C::Error> {
    let activation = layer.spec.mlp.activation();
    let inner = match &layer.gate_proj {
        Some(gate_proj) => {
            let [gate, up] = compute.linears(x, [gate_proj, &layer.up_proj])?;
            compute.activate(Some(gate), up, activation)?
        }
        None => {
            let [up] = compute.linears(x, [&layer.up_proj])?;
            compute.activate(None, up, activation)?
        }
    };
    let [y] = compute.linears(inner, [&layer.down_proj])?;
    Ok(y)
}

/// The stream after the last layer.
pub(crate) fn layers<'w, C: Compute>(
    compute: &mut C,
    model: &ModelOf<'w, C>,
    ids: Tensor<2, Int>,
) -> Result<C::Stream, C::Error> {
    let mut stream = embed(compute, &model.embedding, ids)?;
    for part in &model.layers {
        layer(compute, part, &mut stream)?;
    }
    Ok(stream)
}

/// The logits of all positions of a stream that left the last layer.
pub(crate) fn logits<'w, C: Compute>(
    compute: &mut C,
    norm: &C::Norm<'w>,
    head: &HeadParts<C::Linear<'w>>,
    logit_multiplier: f64,
    mut stream: C::Stream,
) -> Result<C::Logits, C::Error> {
    let x = compute.read(&mut stream, Some(norm))?;
    compute.finish(stream);
    compute.head(x, head, logit_multiplier)
}
