//! Examples at the end of the help of each command. A test runs all of them except `slm chat` and `slm serve`, in a
//! directory with `my-model`, `my-model-int8`, `hf-model`, `my-model.gguf` and `my-text.txt`.

pub(crate) const TRAIN: &str = "\
Examples:
  slm config init train --out my-config.toml
  slm train --config my-config.toml --data my-text.txt --steps 20 \\
      --out trained
  slm train --config my-config.toml --data my-text.txt --steps 40 \\
      --out trained --resume";

pub(crate) const QAT: &str = "\
Examples:
  slm config init qat --out qat.toml
  slm qat --config qat.toml --checkpoint my-model --data my-text.txt \\
      --bits 4 --steps 20 --out my-model-qat
  slm qat --config qat.toml --checkpoint my-model --data my-text.txt \\
      --bits 4 --type weight-only --granularity group:32 --learned-scales \\
      --distill --steps 20 --html qat.html --out my-model-qat-group32
  slm ptq --checkpoint my-model --calibration my-text.txt --bits 4 \\
      --granularity group:32 --type weight-only --method gptq --out start
  slm qat --config qat.toml --checkpoint start --teacher my-model \\
      --learned-scales --distill --data my-text.txt --steps 20 \\
      --out my-model-qat-gptq";

pub(crate) const FINETUNE: &str = "\
Examples:
  slm finetune --checkpoint my-model-int8 --data my-text.txt --steps 30 \\
      --out tuned
  slm finetune --checkpoint my-model-int8 --data my-text.txt \\
      --rounding error-feedback --steps 30 --out tuned-ef";

pub(crate) const SAMPLE: &str = "\
Examples:
  slm sample --checkpoint my-model --sequences 64 --out sampled.json
  slm sample --checkpoint my-model --sequences 4 --length 32 \\
      --temperature 0.8 --out sampled.txt";

pub(crate) const IMPORT: &str = "\
Examples:
  slm import hf-model --out imported
  slm import my-model.gguf --out from-gguf
  slm import my-model.gguf --type dynamic --out from-gguf-dynamic";

pub(crate) const EXPORT: &str = "\
Examples:
  slm ptq --checkpoint my-model --calibration my-text.txt \\
      --type weight-only --bits 4 --granularity group:32 --scale-dtype f16 \\
      --out my-model-int4
  slm export my-model-int4 --format gguf --out my-model-int4.gguf --strict
  slm export my-model --format hf --out my-model-hf
  slm export my-model-int8 --format onnx --out my-model-onnx
  slm export my-model-int4 --format onnx --profile ort-genai \\
      --out my-model-genai";

pub(crate) const PTQ: &str = "\
Examples:
  slm ptq
  slm ptq --checkpoint my-model --calibration my-text.txt --out my-model-int8
  slm ptq --checkpoint my-model --calibration my-text.txt --bits 4 \\
      --granularity group:32 --type weight-only --method gptq \\
      --out my-model-gptq
  slm ptq --checkpoint my-model --calibration my-text.txt \\
      --layer 'lm_head=int8:channel' --skip 'layers.0.*' --out mixed
  slm ptq --checkpoint my-model --calibration my-text.txt \\
      --html report.html --out reported";

pub(crate) const EVAL: &str = "\
Examples:
  slm eval --checkpoint my-model-int8 --data my-text.txt
  slm eval --checkpoint my-model-int8 --data my-text.txt \\
      --reference my-model --max-tokens 2048
  slm eval --checkpoint my-model-int8 --data my-text.txt --window 64 \\
      --stride 32 --json
  slm eval --checkpoint my-model --checkpoint my-model-int8 \\
      --data my-text.txt --max-tokens 2048 --html sizes.html";

pub(crate) const LOGITS: &str = "\
Examples:
  slm sample --checkpoint my-model --sequences 2 --length 16 --out ids.json
  slm logits --checkpoint my-model-int8 --ids ids.json \\
      --out logits.safetensors";

pub(crate) const GENERATE: &str = "\
Examples:
  slm generate --checkpoint my-model-int8 --prompt \"Once upon a time\"
  slm generate --checkpoint my-model-int8 --prompt \"Once upon a time\" \\
      --temperature 0.8 --top-p 0.9 --max-new-tokens 64
  slm generate --checkpoint my-model-int8 --prompt \"Once\" --stop . --json
  slm generate --checkpoint my-model-int8 --prompts prompts.jsonl";

pub(crate) const CHAT: &str = "\
Examples:
  slm chat --checkpoint my-chat-model
  slm chat --checkpoint my-chat-model \\
      --system \"You answer in one sentence.\" --temperature 0.7";

pub(crate) const SERVE: &str = "\
Examples:
  slm serve --checkpoint my-chat-model --port 8080
  SLM_API_KEY=secret slm serve --checkpoint my-chat-model --host 0.0.0.0 \\
      --parallel 16";

pub(crate) const INSPECT: &str = "\
Examples:
  slm inspect my-model-int8
  slm inspect my-model-int8 --layer layers.0.mlp.down_proj
  slm inspect my-model-int8 --all --tensors
  slm inspect my-model-int8 --html model.html";

pub(crate) const SENSITIVITY: &str = "\
Examples:
  slm sensitivity --checkpoint my-model --data my-text.txt --bits 4
  slm sensitivity --checkpoint my-model --data my-text.txt --bits 4 \\
      --by layer --max-tokens 512";

pub(crate) const PLAN: &str = "\
Examples:
  slm plan --checkpoint my-model --data my-text.txt --bits-per-weight 6 \\
      --out plan.toml
  slm ptq --checkpoint my-model --calibration my-text.txt \\
      --config plan.toml --out my-model-planned
  slm plan --checkpoint my-model --data my-text.txt --target-size 1MB \\
      --by layer";

pub(crate) const COMPARE: &str = "\
Examples:
  slm compare my-model my-model-int8 --data my-text.txt
  slm compare my-model my-model-int8 --data my-text.txt --html compare.html";

pub(crate) const MIGRATE: &str = "\
Examples:
  slm migrate my-model --out my-model-new";

pub(crate) const CORPUS: &str = "\
Examples:
  slm corpus --stories 100 --out corpus.txt";

pub(crate) const BENCH: &str = "\
Examples:
  slm bench --checkpoint my-model-int8 --prompt 32 --generate 16
  slm bench --shape stories-15m --bits 4 --granularity group:32 \\
      --type weight-only --prompt 32 --generate 8";

pub(crate) const CONFIG: &str = "\
Examples:
  slm config init ptq --out ptq.toml
  slm config check ptq.toml
  slm config explain training.learning_rate
  slm ptq --config ptq.toml --set quantization.granularity=channel \\
      --checkpoint my-model --calibration my-text.txt --out by-config";

pub(crate) const EXPLAIN: &str = "\
Examples:
  slm explain
  slm explain sqnr
  slm explain zero point";

pub(crate) const DOCTOR: &str = "\
Examples:
  slm doctor
  slm doctor --no-measure --json";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  slm completions bash > slm.bash
  slm completions zsh > _slm
  slm completions fish > slm.fish
  slm completions man --out man1";

#[cfg(test)]
mod tests {
    /// All lines fit a terminal of 80 columns.
    #[test]
    fn examples_are_narrow() {
        let wide =
            include_str!("examples.rs").lines().find(|line| line.starts_with("  slm") && line.len() > 84);
        assert!(wide.is_none(), "{wide:?}");
    }
}
