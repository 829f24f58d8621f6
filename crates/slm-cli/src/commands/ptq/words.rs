//! The text report of `slm ptq`: verdict and summary first, then the layers.

use slm_model::{EMBED_TOKENS, LM_HEAD};
use slm_quant_core::{QParams, QuantizationType};

use super::report::{LayerResult, PtqResult, Sizes};
use super::uncertainty::{CONFIDENCE, FEW_WINDOWS};
use crate::error::Result;
use crate::out_file::relative;
use crate::output::Output;
use crate::table::{self, Ranking, Row, TableArgs, range};
use crate::transforms;

/// Columns of the table of layers, the most informative first.
const HEADER: [&str; 9] =
    ["layer", "SQNR dB", "clipped", "scale", "zero point", "input", "shape", "scheme", "kernel"];

/// One line of the summary for each other scheme.
fn other(scheme: &str, layers: &[String]) -> String {
    let which = match layers {
        [layer] => layer.clone(),
        layers => format!("{} layers", layers.len()),
    };
    format!("{:18}{scheme}: {which}\n", "")
}

impl PtqResult {
    pub(in crate::commands) fn say(&self, tables: TableArgs, output: &Output) -> Result<()> {
        output.headline(self.headline())?;
        output.say(self.summary())?;
        self.remarks().iter().try_for_each(|remark| output.say(format!("\n{remark}")))?;
        for layer in &self.skipped {
            let [rows, cols] = layer.shape;
            output.say(format!("left float: {} ({rows}x{cols}): {}", layer.name, layer.reason))?;
        }
        let is_static = self.layers.iter().any(|layer| layer.input == QuantizationType::Static);
        let rows = self.layers.iter().map(|layer| Row { badness: -layer.sqnr_db, cells: layer.row() });
        let ranking = Ranking {
            what: "layers",
            by: "the SQNR of their weights (`slm explain sqnr`)",
            note: if is_static { "input: scale / zero point of static inputs" } else { "" },
            header: &HEADER,
            rows: rows.collect(),
            last: None,
        };
        tables.show(ranking, output)?;
        self.warning.iter().try_for_each(|warning| output.warning(warning))
    }

    /// The verdict, or a description of the run if nothing was measured.
    pub(super) fn headline(&self) -> String {
        match &self.quality {
            Some(quality) => quality.verdict.clone(),
            None => format!(
                "QUANTIZED: {} layers to int{}, {}; the quality was not measured",
                self.layers.len(),
                self.bits,
                self.quantization_type
            ),
        }
    }

    /// Remarks on head and embedding.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.tied_head_copied {
            let cost =
                self.layers.iter().find(|layer| layer.name == LM_HEAD).map_or(0, |head| head.bytes_after);
            remarks.push(format!(
                "The head was tied to {EMBED_TOKENS}: it was quantized as a separate copy of {}, and the embedding \
                 stays float. A smaller model: --embeddings int8, with which one quantized table serves both.",
                table::bytes(cost as u64)
            ));
        }
        if self.embedding_shared {
            remarks.push(format!(
                "The head is tied to {EMBED_TOKENS}: one quantized table, the layer {LM_HEAD}, serves both."
            ));
        }
        if self.head_untied {
            remarks.push(format!(
                "The head was tied to {EMBED_TOKENS}: rotated, it is a float tensor of its own, as large as the \
                 embedding."
            ));
        }
        if self.lacks_text {
            remarks.push(
                "Nothing was calibrated on a text. With one the model would keep more of its quality: --calibration \
                 FILE, or --sample-calibration, with which the model writes one."
                    .to_owned(),
            );
        }
        remarks
    }

    /// Describes the transformations of the float model.
    fn changes(&self) -> String {
        let changes = self.transforms.and_then(transforms::in_words);
        let mut text = changes.unwrap_or_else(|| "unchanged".to_owned());
        let equalized = self.transforms.is_some_and(|record| record.equalized_mlps.is_some());
        if equalized && self.calibration_tokens == 0 {
            text += " with rotated inputs taken as alike";
        }
        if let Some(reason) = &self.not_rotated {
            text += &format!("; not rotated: {reason}");
        }
        if self.lacks_text_to_equalize {
            text += "; channels not equalized: that needs --calibration FILE";
        }
        text
    }

    /// The two perplexities, and the uncertainty of their difference.
    fn perplexity(&self, float: f64, quantized: f64) -> String {
        let difference = (quantized / float - 1.0) * 100.0;
        let error = self.nll_difference_error.map_or("uncertain".to_owned(), |error| {
            format!("± {:.2} %", (quantized / float) * CONFIDENCE * error * 100.0)
        });
        let few = if self.windows < FEW_WINDOWS { "; few windows, so the ± is rough" } else { "" };
        format!("{float:.4} float -> {quantized:.4} quantized ({difference:+.2} % {error}{few})")
    }

    /// Summary of the run, one line for each fact.
    pub(super) fn summary(&self) -> String {
        let Sizes { linear_before, linear_after, linear_ratio, model_before, model_after, model_ratio } =
            self.sizes;
        let size = |before, form, after, ratio| {
            format!("{}{form} -> {} ({ratio:.4}x)", table::bytes(before), table::bytes(after))
        };
        // A model of 16-bit floats can be smaller than its layers in 32 bits.
        let linear_form = if linear_before > model_before { " as 32-bit floats" } else { "" };
        let weighted = self.observer == "weighted-mse";
        let whose = if self.calibration_sampled { " that the model wrote" } else { "" };
        let over = match self.calibration_tokens {
            0 if weighted => " with rotated inputs taken as alike".to_owned(),
            tokens if tokens > 0 && (weighted || self.method == "gptq") => {
                format!(" over {tokens} tokens{whose}")
            }
            _ => String::new(),
        };
        let peak = self.peak_memory_bytes.map_or("not known here".to_owned(), table::bytes);
        let activations = match (&self.activation_observer, &self.activation_granularity) {
            (Some(observer), _) => {
                let tokens = self.calibration_tokens;
                let dynamic = match self.dynamic_inputs.len() {
                    0 => String::new(),
                    count => format!("; dynamic in {count} of {} layers", self.layers.len()),
                };
                format!("8-bit static, {observer} over {tokens} tokens{whose}{dynamic}")
            }
            (None, Some(granularity)) => format!("8-bit dynamic, one scale per {granularity}"),
            (None, None) => "float (weight-only)".to_owned(),
        };
        let others: String =
            self.other_schemes.iter().map(|(scheme, layers)| other(scheme, layers)).collect();
        let has_others_only = self.other_schemes.values().map(Vec::len).sum::<usize>() == self.layers.len();
        let scheme = match has_others_only {
            true => "mixed".to_owned(),
            false => {
                format!(
                    "int{} {}, {}, {} scales",
                    self.bits, self.granularity, self.mapping, self.scale_dtype
                )
            }
        };
        let perplexity = match (self.perplexity_float, self.perplexity_quantized) {
            (Some(float), Some(quantized)) => self.perplexity(float, quantized),
            _ => "not measured (--no-eval)".to_owned(),
        };
        format!(
            "\nweights           {scheme}, {} observer{over}, {}\n\
             {others}\
             activations       {activations}\n\
             float model       {}\n\
             linear layers     {}\n\
             whole model       {}\n\
             perplexity        {perplexity}\n\
             peak memory       {peak} (largest float tensor {})\n\
             time              {:.1} s on {}\n\
             wrote             {}",
            self.observer,
            self.method,
            self.changes(),
            size(linear_before, linear_form, linear_after, linear_ratio),
            size(model_before, "", model_after, model_ratio),
            table::bytes(self.largest_tensor_bytes),
            self.seconds,
            self.device,
            relative(&self.output).display(),
        )
    }
}

impl LayerResult {
    /// The cells of a row with the header [`HEADER`].
    fn row(&self) -> Vec<String> {
        let [rows, cols] = self.shape;
        let of = |QParams { scale, zero_point }| format!("{} / {zero_point}", table::scale(scale));
        vec![
            self.name.clone(),
            format!("{:.2}", self.sqnr_db),
            table::percent(self.clipped_share),
            range(table::scale(self.scale_min), table::scale(self.scale_max)),
            range(self.zero_point_min.to_string(), self.zero_point_max.to_string()),
            self.activation.map_or(self.input.to_string(), of),
            format!("{rows}x{cols}"),
            self.scheme.clone(),
            self.kernel.clone(),
        ]
    }
}
