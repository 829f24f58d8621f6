//! The terms.

use super::Term;

/// All terms, in alphabetical order.
pub(crate) const TERMS: &[Term] = &[
    Term {
        name: "activation",
        aliases: &["activations", "w8a8", "w4a8", "input", "inputs"],
        text: "The input of a layer while the model runs. Weights are known beforehand; activations depend on the text. \
               For integer products both must be quantized. In slm activations have 8 bits, with static or dynamic \
               scales, or stay float (weight-only). W4A8 means 4-bit weights and 8-bit activations.",
    },
    Term {
        name: "AdamW",
        aliases: &["adam", "optimizer", "weight decay", "beta1", "beta2", "epsilon", "moments"],
        text: "The optimizer of slm: the rule by which gradients change weights (Loshchilov and Hutter, 2017). It \
               keeps a running mean of each gradient and of its square (beta1, beta2: how slowly they change), \
               moves the weight by the learning rate times the mean divided by the root of the mean square (plus \
               epsilon, against division by zero), and pulls weights towards zero (weight decay). Its two means \
               take 8 bytes per weight. The defaults of the config are good; change the learning rate first.",
    },
    Term {
        name: "affine",
        aliases: &["asymmetric"],
        text: "A mapping with a zero point: x = scale * (code - zero_point). It spends no codes on values that do not \
               occur, such as negative inputs after a ReLU. Weights are mostly symmetric around zero and gain little \
               from it. Option: --mapping affine.",
    },
    Term {
        name: "attention",
        aliases: &["self-attention", "self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "rotary", "rope"],
        text: "The part of a transformer block in which a token looks at the tokens before it. Three linear layers \
               (q_proj, k_proj, v_proj) make queries, keys and values of its input, and o_proj brings the result back \
               to the width of the model. With rotary positions, queries and keys are rotated by their place in the \
               text. Errors of v_proj and o_proj go straight into the result, those of q_proj and k_proj only change \
               where the model looks.",
    },
    Term {
        name: "AWQ",
        aliases: &["activation-aware weight quantization"],
        text: "A way to reduce the error of rounding to nearest (Lin and others, 2023): channels with large activations \
               are scaled up in the weights, so that they lose less, and down in the norm before, which changes nothing \
               in floats. The factors are searched layer by layer. AWQ is faster than GPTQ and usually loses more. \
               Option: --method awq.",
    },
    Term {
        name: "batch",
        aliases: &[
            "batch size",
            "batches",
            "gradient accumulation",
            "accumulation",
            "accumulation steps",
            "sequence length",
        ],
        text: "The sequences that one training step learns from: batch_size sequences of sequence_length tokens in \
               one forward and backward pass. With accumulation_steps above 1 a step sums the gradients of as many \
               passes, which gives the effect of a larger batch in the memory of a small one. Tokens per step are \
               the product of the three. Rule of thumb: fine-tuning works with a few thousand tokens per step, \
               training from scratch gains from more.",
    },
    Term {
        name: "beginning-of-sequence token",
        aliases: &["bos", "bos token", "eos", "end-of-sequence token"],
        text: "A special token that some models expect in front of every text. In generation and calibration slm \
               puts it there if the tokenizer does, since a model without it can be far worse, and the first \
               position has the largest activations. `slm eval` and `slm ptq` measure without it unless --bos is \
               given. The end-of-sequence token is the model's sign that a text is finished.",
    },
    Term {
        name: "BF16",
        aliases: &["bfloat16", "brain float", "precision"],
        text: "A 16-bit float: the upper half of a 32-bit one, with the same exponents and 8 significant bits. Many \
               models are published in it. With precision = \"bf16\" in [training] the operands of matrix products are \
               rounded to BF16 while sums, weights and the optimizer stay in 32 bits, as in PyTorch's autocast. That \
               takes less time on processors with AVX-512BF16 (`slm doctor` says what yours has).",
    },
    Term {
        name: "bits per byte",
        aliases: &["bpb", "bits_per_byte"],
        text: "The loss of a model on a text, counted per byte of the text instead of per token: nats per token times \
               tokens, divided by ln 2 and by bytes. A tokenizer with longer tokens has a higher perplexity for the same \
               quality of prediction; bits per byte do not depend on it, so they compare models with different \
               tokenizers. Lower is better. `slm eval` shows them if it is given a text, not token ids.",
    },
    Term {
        name: "bits per weight",
        aliases: &["bpw", "size", "bits a weight"],
        text: "The size of a weight including its share of scales and zero points. INT8 with one scale per tensor or \
               channel: about 8. INT4 in groups of 32 with 16-bit scales: 4 + 16/32 = 4.5; with 32-bit scales: 5.",
    },
    Term {
        name: "calibration",
        aliases: &["calibrate", "calibration text"],
        text: "Running the float model on some text to see which ranges its activations take. Static quantization needs \
               it; GPTQ and weighted-mse use it to see which inputs of a layer are large. A few thousand tokens of text \
               that resembles the model's later input are enough. Calibrate on one text and measure on another.",
    },
    Term {
        name: "channel",
        aliases: &["per-channel", "per channel", "row"],
        text: "An output of a linear layer, which is a row of its weight matrix. With --granularity channel each row has \
               its own scale. That costs next to nothing in size or speed, and recovers most of what one scale per \
               tensor loses.",
    },
    Term {
        name: "chat template",
        aliases: &["jinja"],
        text: "A program in the template language Jinja that comes with a model trained for conversations. It turns \
               messages into the text that the model expects, with the tokens that begin and end a turn. `slm \
               import` keeps it in the checkpoint; `slm chat` and `slm serve` use it. A model without one can only \
               continue texts (`slm generate`).",
    },
    Term {
        name: "checkpoint",
        aliases: &["checkpoints"],
        text: "A directory that holds a model: weights, config, tokenizer, checksums, and for a quantized model \
               every scale and zero point. `slm import`, `train`, `ptq`, `qat` and `finetune` write one, and most \
               other commands read one. `slm inspect DIR` describes it.",
    },
    Term {
        name: "clipping",
        aliases: &["clipped", "clip", "saturation"],
        text: "Replacing values outside the range that the codes cover by the nearest end of the range. A smaller range \
               makes the steps finer and clips more; observers look for the best compromise. \"clipped 0.010 %\" means \
               one value in ten thousand.",
    },
    Term {
        name: "code",
        aliases: &["codes", "integer", "int8", "int4"],
        text: "The integer that represents a value. INT8 has 256 codes, INT4 only 16. Together with scale and zero point \
               a code gives the value: x = scale * (code - zero_point).",
    },
    Term {
        name: "cosine similarity",
        aliases: &["cosine"],
        text: "The cosine of the angle between two vectors: 1 if they point in the same direction. It hardly falls while \
               errors are small: 0.9999 is 37 dB, 0.999 is 27 dB, 0.99 is 17 dB. SQNR says the same with more digits.",
    },
    Term {
        name: "decode",
        aliases: &["decoding", "tokens per second", "tokens/s"],
        text: "Writing a text token by token. Each token reads all weights once, so the speed is that of the \
               memory: half the bytes, twice the tokens per second. See prefill for the other half of the work. \
               `slm bench` measures both.",
    },
    Term {
        name: "distillation",
        aliases: &["distill", "teacher", "knowledge distillation"],
        text: "Training a model (the student) towards the predictions of another (the teacher) instead of the \
               tokens of the text. In quantization-aware training the float model is the teacher; its predictions \
               say more per token than the text does, and the student stays close to the model it came from. Option \
               of `slm qat`: --distill.",
    },
    Term {
        name: "dynamic quantization",
        aliases: &["dynamic"],
        text: "Quantizing activations with scales that are computed from the input itself, in slm one per token. It \
               needs no calibration and copes with outliers in single tokens, but costs a pass over the input. Option: \
               --type dynamic.",
    },
    Term {
        name: "epoch",
        aliases: &["epochs"],
        text: "A pass over the whole training text. slm counts steps instead: each sequence begins at a random \
               place of the text. An epoch is as many steps as the tokens of the text divided by the tokens of a \
               step (see batch). After several of them a model learns the text by heart: the training loss falls on \
               while the validation loss rises.",
    },
    Term {
        name: "F16",
        aliases: &["fp16", "float16", "half precision"],
        text: "A 16-bit float with 11 significant bits and values up to 65504. slm stores keys and values in it, \
               and scales with --scale-dtype f16, as GGUF does. BF16 has the range of a 32-bit float and only 8 \
               significant bits.",
    },
    Term {
        name: "fake quantization",
        aliases: &[
            "fake quant",
            "fake-quantize",
            "straight-through estimator",
            "ste",
            "fake-quantized",
            "straight-through",
        ],
        text: "Rounding a float to the nearest value that a code can represent, while it stays a float. \
               Quantization-aware training does it in every forward pass. Gradients pass as if nothing had been rounded \
               (straight-through estimator), and are zero where a value is clipped.",
    },
    Term {
        name: "fine-tuning",
        aliases: &["finetune", "fine-tune", "finetuning"],
        text: "Training that starts from a trained model, with a small learning rate and few steps. `slm finetune` \
               fine-tunes float and quantized models; a quantized one stays quantized, and its weights are rounded \
               back to codes after each step (see stochastic rounding).",
    },
    Term {
        name: "float model",
        aliases: &["float", "floats", "f32", "fp32", "reference"],
        text: "The model before it is quantized, and what a quantized model is compared with. Sizes of linear layers are \
               compared with 32-bit floats (F32), even if the file has them in 16 bits.",
    },
    Term {
        name: "GGUF",
        aliases: &["q8_0", "q4_0", "llama.cpp"],
        text: "The file format of llama.cpp, Ollama and LM Studio. Its types Q8_0 and Q4_0 are groups of 32 weights with \
               a 16-bit scale. slm exports its codes to them unchanged: quantize with --granularity group:32 \
               --scale-dtype f16 --type weight-only, then `slm export --format gguf`.",
    },
    Term {
        name: "GOP/s",
        aliases: &["gop", "gops", "operations per second"],
        text: "Billions of multiplications and additions per second in integer arithmetic. Reading a prompt takes two \
               operations for each weight and token, so a model of 100 million weights at 500 GOP/s reads 2,500 tokens \
               per second. `slm doctor` measures the peak of this machine, and `slm bench` the share that a model \
               reaches.",
    },
    Term {
        name: "GPTQ",
        aliases: &["optq", "method", "hessian"],
        text: "A method of rounding weights (Frantar and others, 2022). It rounds one column after the other, and \
               changes the columns that are not rounded yet to compensate for the error, using the correlations between \
               inputs in the calibration text. It pays off at 4 bits, and takes minutes where rounding to nearest takes \
               seconds. Option: --method gptq.",
    },
    Term {
        name: "gradient",
        aliases: &[
            "gradients",
            "backward pass",
            "gradient clipping",
            "grad clip",
            "gradient norm",
            "gradient checkpointing",
            "checkpointing",
        ],
        text: "The change of the loss with a weight, for each weight; the backward pass computes it. Gradient \
               clipping (grad_clip) scales all gradients of a step down if the norm of all together exceeds the \
               limit, so that one odd batch does not ruin the weights; 1.0 is usual. Gradient checkpointing \
               computes layers twice to keep fewer intermediate values: less memory, more time.",
    },
    Term {
        name: "granularity",
        aliases: &["per-tensor", "per tensor", "tensor"],
        text: "Which weights share a scale: the whole tensor, a channel (row), or a group of N weights in a row. Finer \
               granularity is more accurate and needs more scales. Rules of thumb: INT8 works well per channel and \
               mostly per tensor; INT4 needs group:32 or group:64.",
    },
    Term {
        name: "group",
        aliases: &["group size", "group:32", "block", "block size", "groupwise"],
        text: "N consecutive weights in a row that share a scale: --granularity group:32. One outlier then spoils 32 \
               weights, not the whole tensor. Smaller groups are more accurate: at 4 bits group:32 costs 0.5 bits per \
               weight with 16-bit scales.",
    },
    Term {
        name: "held-out text",
        aliases: &["held out", "evaluation text", "validation text"],
        text: "Text that neither training nor calibration has seen, and on which quality is therefore measured. A \
               model looks better than it is on text that it was fitted to. Unless --eval names another text, `slm \
               ptq` and the training commands hold out the last part of the one they are given, and say so.",
    },
    Term {
        name: "huge pages",
        aliases: &["huge page", "large pages", "madvise"],
        text: "Pages of memory of 2 MiB in place of 4 KiB. Weights are read faster from them, since the processor looks \
               up fewer addresses. slm asks for them; the system grants it if \
               /sys/kernel/mm/transparent_hugepage/enabled is madvise or always. `slm doctor` shows it.",
    },
    Term {
        name: "inference path",
        aliases: &["cpu engine", "path"],
        text: "The code that runs a model: the CPU engine (cpu), which works on memory directly and is the faster one, \
               or Burn's tensor operations (burn), on GPUs and for what the engine does not support. Both give the same \
               predictions up to rounding.",
    },
    Term {
        name: "inherited error",
        aliases: &["own error", "own db", "total db"],
        text: "The error of a layer's output has two parts: its own, from its quantized weights and input, and the \
               error that its input inherits from the layers before. `slm compare` shows both: own dB for the input \
               of the float model, total dB with everything inherited. A low total with a high own figure points to \
               an earlier layer.",
    },
    Term {
        name: "kernel",
        aliases: &["kernels", "avx512vnni", "avx2", "vnni"],
        text: "The code that multiplies integers on this processor: avx512vnni, avx2, dotprod or scalar. All give the same \
               numbers to the last bit. `slm doctor` shows which one is chosen; SLM_KERNEL=NAME forces one.",
    },
    Term {
        name: "KL divergence",
        aliases: &["kl", "kld", "kullback-leibler", "kullback-leibler divergence", "p90", "p99"],
        text: "The distance of the predicted next-token distribution from that of the float model, in nats (Kullback and \
               Leibler, 1951); 0 if they are the same. It sees changes that perplexity does not, since it looks at every \
               token that might have come. Rules of thumb for the mean: 0.001 nobody notices, 0.01 is good for 4 bits, \
               {DIFFERENT} is a different model. Look at the 99th percentile (p99), too. Commands: `slm eval --reference`, `slm \
               compare`.",
    },
    Term {
        name: "KV cache",
        aliases: &["kv", "key-value cache", "keys and values", "cache"],
        text: "The keys and values of earlier tokens, kept so that a new token does not compute them again. It \
               grows with the text and is read for every token: after a few thousand tokens it is larger than a \
               small model in 4 bits. Option: --kv-cache f32|f16|int8|int4.",
    },
    Term {
        name: "learned rounding",
        aliases: &["tune", "auto-round", "autoround", "signround", "adaround"],
        text: "Training codes and scales of one transformer block at a time, after GPTQ, so that the block reproduces \
               the outputs of the float block. It is the slowest way to round weights. Options: --method tune, \
               --tune-steps.",
    },
    Term {
        name: "learning rate",
        aliases: &[
            "lr",
            "min learning rate",
            "warm-up",
            "warmup",
            "warmup steps",
            "schedule",
            "cosine schedule",
            "scale learning rate",
        ],
        text: "The size of the updates of training. It rises linearly to learning_rate during the first \
               warmup_steps (warm-up), in which the optimizer knows little about the gradients, and then falls \
               along a cosine to min_learning_rate. If it is too high, the loss jumps or becomes NaN; if it is too \
               low, little changes. Rules of thumb: 1e-3 for small models from scratch, 1e-4 for quantization-aware \
               training and fine-tuning. scale_learning_rate multiplies it for learned scales.",
    },
    Term {
        name: "lineage",
        aliases: &["history", "ancestry"],
        text: "The record of what a checkpoint was made from: the steps (imported, trained, quantized, fine-tuned), \
               the SHA-256 of the weights before each step, and of the calibration or training text. It is in \
               config.json and quantization_metadata.json; `slm inspect` shows it.",
    },
    Term {
        name: "linear layer",
        aliases: &["linear layers", "layer", "layers", "projection", "weight", "weights", "parameters"],
        text: "A matrix product: each output is a sum of all inputs, each times a weight. Nearly all parameters of a \
               language model are the weights of its linear layers, so these are quantized: in each transformer block \
               those of attention and MLP, and the head. The embedding, norms and biases stay float unless --embeddings \
               is given.",
    },
    Term {
        name: "logits",
        aliases: &["logit"],
        text: "The scores that the head gives the tokens of the vocabulary, one for each. Their softmax is the \
               distribution of the next token. `slm logits` writes them to a file.",
    },
    Term {
        name: "LSQ",
        aliases: &["learned scales", "learned step size"],
        text: "Training the scales along with the weights (learned step size quantization, Esser and others, 2020). Option of \
               `slm qat`: --learned-scales.",
    },
    Term {
        name: "memory bandwidth",
        aliases: &["bandwidth"],
        text: "The rate at which the processor reads memory. To generate a token, a model reads all its weights, so \
               tokens per second are at most the bandwidth divided by the bytes of the weights: at 40 GB/s a model \
               of 100 MB makes at most 400 tokens/s. This is why fewer bits are faster. `slm doctor` measures the \
               bandwidth, and `slm bench` the share of it that a model reaches.",
    },
    Term {
        name: "mixed precision",
        aliases: &["plan", "bit allocation"],
        text: "A different bit width for each layer: 8 bits where a layer is sensitive, 4 where it is not. `slm plan` \
               chooses schemes for a given size and writes them as a config for `slm ptq`; to choose by hand, use \
               --layer 'PATTERN=SCHEME'.",
    },
    Term {
        name: "MLP",
        aliases: &["feed-forward", "feedforward", "swiglu", "geglu", "gate_proj", "up_proj", "down_proj"],
        text: "The part of a transformer block that works on each token by itself. A gated one (swiglu) multiplies the \
               outputs of up_proj by an activation function of those of gate_proj, and down_proj brings the product \
               back to the width of the model. Inputs of down_proj often have the largest outliers: with static activations \
               it is the first layer to look at.",
    },
    Term {
        name: "nat",
        aliases: &["nats", "nats per token"],
        text: "The unit of information that goes with natural logarithms: 1 nat is 1.44 bits. A loss of x nats per token \
               is a perplexity of e^x. KL divergences are in nats, too. The difference of two losses in nats is about \
               the relative difference of the perplexities: 0.01 nats is 1 %.",
    },
    Term {
        name: "noise floor",
        aliases: &["floor"],
        text: "The KL divergence of the reference from itself, computed in another order of sums: what float rounding \
               alone does. A divergence near it means that quantization changed nothing. Option: `slm eval \
               --noise-floor`.",
    },
    Term {
        name: "norm",
        aliases: &["norms", "rms_norm", "rmsnorm", "layer_norm", "layernorm"],
        text: "A layer that brings the vector of each token to a fixed size before attention and MLP read it, and \
               multiplies each channel by a weight. It has few parameters and stays float. Smoothing and rotation move \
               factors into it.",
    },
    Term {
        name: "observer",
        aliases: &[
            "observers",
            "min-max",
            "mse",
            "weighted-mse",
            "percentile",
            "histogram",
            "moving-average",
        ],
        text: "The rule that chooses the range that the codes cover. min-max takes everything; percentile cuts the \
               tails; mse minimizes the mean squared error; weighted-mse does so with each input weighted by how large \
               it is; histogram searches as PyTorch does. Options: --observer for weights, --activation-observer for \
               inputs.",
    },
    Term {
        name: "outlier",
        aliases: &["outliers", "outlier channel"],
        text: "A value far larger than the rest. It stretches the range of everything that shares its scale, and leaves \
               few codes for the other values. In language models a few channels of the activations contain most of \
               them. Remedies: finer granularity, rotation, smoothing, dynamic inputs.",
    },
    Term {
        name: "peak memory",
        aliases: &["memory"],
        text: "The most memory that the program had in use at once. `slm ptq` quantizes layer by layer, so with \
               --no-eval it needs far less than the model takes in 32-bit floats.",
    },
    Term {
        name: "perplexity",
        aliases: &["ppl", "nll", "cross-entropy", "loss", "margin", "±", "confidence interval"],
        text: "The number of tokens that the model hesitates between, on average: the exponential of its mean loss in \
               nats per token. Lower is better, and only figures for the same text, tokenizer and window can be \
               compared. Rules of thumb for the rise through quantization: below 1 % is very good, up to {TOLERATED_RISE} is \
               good for 4 bits, more calls for another scheme. The figure after ± is half the width of the 95 % confidence \
               interval of the rise.",
    },
    Term {
        name: "post-training quantization",
        aliases: &["ptq"],
        text: "Quantizing a model that is already trained, in minutes and without training it. `slm ptq` does it.",
    },
    Term {
        name: "prefill",
        aliases: &["prompt processing", "prompt", "ttft"],
        text: "Reading the prompt: all its tokens go through each layer together, so the speed is that of the \
               processor's arithmetic and not of its memory. Integer products gain most here. See decode for the \
               other half of the work.",
    },
    Term {
        name: "quantization",
        aliases: &["quantize", "quantisation", "quantized"],
        text: "Storing numbers with fewer bits. A value x becomes the code round(x / scale) + zero_point, clamped to the \
               available codes, and is restored as scale * (code - zero_point). INT8 takes a quarter of the space of \
               32-bit floats, INT4 an eighth. Generation reads every weight for every token, so smaller is also faster.",
    },
    Term {
        name: "quantization-aware training",
        aliases: &["qat"],
        text: "Training while the layers act as if they were quantized, so that the weights move to where rounding hurts \
               less. It takes much longer than post-training quantization and recovers much of what that loses, above \
               all with 4 bits per tensor or channel. `slm qat` does it.",
    },
    Term {
        name: "residual stream",
        aliases: &["residual"],
        text: "The vector that a transformer keeps for each token: it begins as the embedding, every attention and \
               MLP adds its output to it, and the head reads it. Its width is the model's hidden size.",
    },
    Term {
        name: "right token",
        aliases: &["rms", "right token probability"],
        text: "The token that really follows in the text. `slm eval --reference` shows the root mean square (RMS) of \
               the change of its probability, which llama.cpp calls RMS delta p: about 1 % is usual for 8 bits, some \
               5 % for 4.",
    },
    Term {
        name: "rotation",
        aliases: &["rotate", "rotated", "quarot", "spinquant", "hadamard"],
        text: "Multiplying the residual stream by a random orthogonal matrix and the weights by its inverse. The float model \
               computes the same, but outliers are spread over all channels (QuaRot, SpinQuant). It costs nothing at \
               inference. Option: --rotate.",
    },
    Term {
        name: "rounding to nearest",
        aliases: &["rtn", "rounding"],
        text: "Giving each weight the code nearest to it, independently of the others. It is fast, and for INT8 nearly \
               as good as any other method. For 4 bits see GPTQ.",
    },
    Term {
        name: "scale",
        aliases: &["scales", "step size", "scale dtype"],
        text: "The distance between the values of two adjacent codes: x = scale * (code - zero_point). No value within \
               the range is off by more than half a scale. The largest value that shares a scale determines it: a large \
               scale means coarse steps.",
    },
    Term {
        name: "scheme",
        aliases: &["schemes", "quantization scheme"],
        text: "How the weights of a layer become codes: bits, granularity, mapping and the type of the scales, such \
               as int4 group:32 symmetric with f16 scales. Options: --bits, --granularity, --mapping, \
               --scale-dtype; for single layers --layer 'PATTERN=SCHEME'.",
    },
    Term {
        name: "seed",
        aliases: &["random seed"],
        text: "The number that all random choices of a run depend on: initial weights, places in the text, \
               stochastic rounding, sampled tokens. The same seed with the same inputs gives the same result, on \
               the CPU bit for bit.",
    },
    Term {
        name: "sensitivity",
        aliases: &["sensitive", "nats/gb"],
        text: "The change of the predictions when only one layer is quantized. `slm sensitivity` ranks layers by it, \
               next to the bytes that they save; nats/GB is the change for each gigabyte saved. Give the layers with the \
               most nats/GB more bits: --layer 'layers.0.mlp.down_proj=int8:channel'.",
    },
    Term {
        name: "smoothing",
        aliases: &["smooth", "smoothquant", "equalization", "equalize", "equalized"],
        text: "Dividing a channel of the activations by a factor, and multiplying the weights that read it by the same \
               factor (SmoothQuant). The float model computes the same, but large activations become smaller. Option: \
               --smooth.",
    },
    Term {
        name: "SQNR",
        aliases: &["snr", "db", "decibel", "decibels", "signal to quantization noise", "noise"],
        text: "Signal to quantization noise ratio: 20 log10(|x| / |x - x'|) in decibels, for a weight or for the output of a \
               layer. 6 dB more is half the error, and each bit gives about 6 dB.\n\n    50 dB   0.3 % error   \
               indistinguishable\n    40 dB   1 %           INT8: nothing to worry about\n    30 dB   3 %           fine for \
               most layers\n    20 dB   10 %          INT4: normal; look at perplexity and KL\n    10 dB   32 %          the \
               layer is damaged\n     0 dB   100 %         as good as zero\n\nA layer's weights can have 40 dB and its output \
               20 dB: its input already carries the errors of the layers before, which accumulate with depth.",
    },
    Term {
        name: "stages of training",
        aliases: &["observe steps", "freeze steps", "averaging constant", "stage", "stages"],
        text: "Quantization-aware training with observed scales has three stages: in the first observe_steps \
               observers only watch and nothing is rounded; then layers act as if quantized while ranges follow a \
               moving average of what they see (averaging_constant is the weight of a new batch in it); in the last \
               freeze_steps the ranges stay, and weights settle on them.",
    },
    Term {
        name: "static quantization",
        aliases: &["static", "static ranges"],
        text: "Quantizing activations with scales that were fixed by calibration. It is the fastest at inference and the \
               most demanding: one scale must suit every input. slm keeps inputs dynamic if one scale would ruin them \
               (--dynamic-inputs). Option: --type static.",
    },
    Term {
        name: "stochastic rounding",
        aliases: &["stochastic", "error feedback", "error-feedback", "updates"],
        text: "Rounding up or down at random, with probabilities that make the mean right. Fine-tuning a quantized \
               model rounds its weights back to codes after each step. An update is mostly smaller than half a \
               step, so rounding to nearest would lose it; stochastic rounding keeps it on average, and error \
               feedback keeps the rest of each weight for the next step. Option of `slm finetune`: --rounding.",
    },
    Term {
        name: "symmetric",
        aliases: &["symmetric-torch", "mapping"],
        text: "A mapping whose zero point is 0: x = scale * code. Products of such codes need no correction, and weights \
               are mostly symmetric anyway. `symmetric` takes the smallest scale at which neither end is clipped; \
               `symmetric-torch` takes PyTorch's, at which a value at the positive end is clipped by half a step.",
    },
    Term {
        name: "temperature",
        aliases: &["sampling", "top-k", "top-p", "min-p"],
        text: "The randomness of generation: 0 always takes the most likely token, 1 draws from the model's own \
               distribution. top-k, top-p and min-p exclude unlikely tokens before one is drawn.",
    },
    Term {
        name: "tied head",
        aliases: &[
            "tied",
            "tied embeddings",
            "tie_word_embeddings",
            "head",
            "lm_head",
            "untied",
            "embedding",
        ],
        text: "The head (lm_head) gives each token of the vocabulary its score. In many small models it shares its \
               weights with the embedding, the table in which tokens are looked up: the two are tied. Quantizing a \
               tied head makes it a separate copy next to the float embedding, unless --embeddings quantizes the \
               one table for both; --skip lm_head leaves both float.",
    },
    Term {
        name: "token",
        aliases: &["tokens", "tokenizer", "vocabulary"],
        text: "A piece of text that the model reads and predicts: in English usually three to four letters. The \
               tokenizer is part of the checkpoint.",
    },
    Term {
        name: "top-1 agreement",
        aliases: &["same top token", "same top", "agreement"],
        text: "The share of positions where the quantized model and the float model have the same most likely token. 99 \
               % and more is usual for INT8 by channel, 90 % for INT4 in groups of 32. If the float model itself wavers \
               between two tokens, a small change tips the balance and does no harm.",
    },
    Term {
        name: "training step",
        aliases: &[
            "step",
            "steps",
            "training steps",
            "optimizer step",
            "log interval",
            "save interval",
            "eval interval",
            "freeze embeddings",
        ],
        text: "One update of the weights: forward and backward passes over a batch, then a step of the optimizer. \
               The number of steps is the one key of [training] without a default. Every log_interval steps a line \
               goes to metrics.jsonl, every eval_interval the held-out text is scored, and every save_interval a \
               checkpoint is written, from which --resume continues. The step between two codes of a quantized \
               value is something else: see scale.",
    },
    Term {
        name: "transformer block",
        aliases: &["blocks", "transformer", "depth"],
        text: "One step of a model: attention, then an MLP, each of which reads the residual stream through a norm and \
               adds its output to it. Models of 135 million parameters have some 30 blocks, numbered from 0 in the \
               names of layers. Errors accumulate from block to block.",
    },
    Term {
        name: "validation",
        aliases: &["validation loss", "validation window", "validation windows", "validation fraction"],
        text: "Scoring of held-out text during training. The last validation_fraction of the text is not trained \
               on; its loss is measured on at most validation_windows windows of sequence_length tokens. While it \
               falls the model still learns; when it rises although the training loss falls, stop, or use more \
               text.",
    },
    Term {
        name: "verdict",
        aliases: &["good", "worse", "broken", "unclear", "better", "unchanged", "trained"],
        text: "The first word of a report. GOOD: the perplexity is at most {TOLERATED_RISE} above the float model's. \
               WORSE: it is more than {TOLERATED_RISE} above it, or training made the model worse. BROKEN: it is \
               {BROKEN} the float model's or more. UNCLEAR: the text is too short to tell. `slm compare` also says \
               WORSE if the mean KL divergence is {DIFFERENT} or more. `slm finetune` compares with the model before \
               training: BETTER, UNCHANGED (within {NEGLIGIBLE}) or WORSE. After training from scratch there is \
               nothing to compare with: TRAINED, or BROKEN if the model is no better than guessing. Whether GOOD is \
               good enough is up to the use: look at the figures next to it.",
    },
    Term {
        name: "weight-only quantization",
        aliases: &["weight-only", "w8a16", "w4a16"],
        text: "Quantizing weights while activations stay float. Inputs lose nothing and no calibration is needed. The \
               model is as small as with quantized activations, but reads prompts more slowly than in integers. Option: \
               --type weight-only.",
    },
    Term {
        name: "window",
        aliases: &["windows", "context window"],
        text: "A piece of a text that a model sees at once. Evaluations cut a text into windows of 256 tokens \
               (--window) and evaluate each on its own. The first tokens of a window have little before them, so \
               longer windows give a lower perplexity: compare only figures for the same window.",
    },
    Term {
        name: "zero point",
        aliases: &["zero points", "zero-point", "offset"],
        text: "The code that represents 0.0: x = scale * (code - zero_point). Symmetric mappings have zero point 0. It \
               is an integer, so 0.0 is exact, which padding and ReLU rely on.",
    },
];
