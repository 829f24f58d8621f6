//! The header of a file of llama2.c, and the layout of its tensors.
//!
//! The three versions are those of llama2.c's `export.py` and of the programs that read them, `run.c` and `runq.c`:
//!
//! | version | header | weights |
//! |---|---|---|
//! | 0 | seven 32-bit numbers; a negative vocabulary size means an untied head | F32, then rotary tables, then the head |
//! | 1 | `ak42`, the version, the numbers, a byte for a tied head; 256 bytes in total | F32 |
//! | 2 | as version 1, with the group size | F32 norms; for each other matrix, 8-bit codes, then F32 scales |

use std::fmt;
use std::fs::File;
use std::path::Path;

use slm_checkpoint::{hf, layer_of};
use slm_model::{EMBED_TOKENS, LM_HEAD, ModelConfig, Position, RotaryConfig};
use slm_store::StopFlag;
use slm_store::manifest::sha256_of;
use slm_store::tensors::PositionedFile;

use crate::{Error, Result};

/// `ak42`, as a 32-bit number.
const MAGIC: u32 = 0x616b_3432;
/// Size in bytes of the header of versions 1 and 2.
const HEADER: u64 = 256;
/// The names of the numbers in llama2.c.
const FIELDS: [&str; 7] =
    ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len"];
/// The base of the rotary embedding, which files do not record.
const THETA: f64 = 10_000.0;

/// An open file. All tensors are inside the file.
#[derive(Debug)]
pub(super) struct Llama2cFile {
    pub(super) model: ModelConfig,
    pub(super) version: u32,
    /// Number of values that share a scale; only in version 2.
    pub(super) group_size: Option<usize>,
    file: PositionedFile,
    places: Vec<Place>,
}

/// A tensor and its offset.
#[derive(Debug, Clone)]
struct Place {
    name: String,
    /// Number of values.
    len: usize,
    start: u64,
    quantized: bool,
}

/// The seven numbers of the header.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    dim: u64,
    hidden: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    vocab: u64,
    positions: u64,
    tied: bool,
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { dim, hidden, layers, heads, kv_heads, vocab, positions, .. } = self;
        let values = [dim, hidden, layers, heads, kv_heads, vocab, positions];
        let fields: Vec<String> =
            FIELDS.iter().zip(values).map(|(name, value)| format!("{name} {value}")).collect();
        f.write_str(&fields.join(", "))
    }
}

impl Numbers {
    /// Reads the numbers of a valid model. The error names the invalid one.
    fn read(words: [i32; 7], tied: Option<bool>) -> std::result::Result<Self, String> {
        let mut numbers = [0_u64; 7];
        for ((number, word), name) in numbers.iter_mut().zip(words).zip(FIELDS) {
            let word = if name == "vocab_size" && tied.is_none() {
                word.unsigned_abs() as i64
            } else {
                i64::from(word)
            };
            *number = u64::try_from(word)
                .ok()
                .filter(|&word| word > 0)
                .ok_or_else(|| format!("{name} is {word}"))?;
        }
        let [dim, hidden, layers, heads, kv_heads, vocab, positions] = numbers;
        if dim % heads != 0 || heads % kv_heads != 0 || dim / heads % 2 != 0 {
            return Err(format!("dim {dim}, n_heads {heads} and n_kv_heads {kv_heads} do not fit together"));
        }
        let tied = tied.unwrap_or(words[5] > 0);
        Ok(Self { dim, hidden, layers, heads, kv_heads, vocab, positions, tied })
    }

    /// Names and sizes of the tensors of a file, in order. A name contains `N` if each layer has such a tensor.
    fn tensors(&self, version: u32) -> Vec<(&'static str, u64)> {
        let &Self { dim, hidden, vocab, .. } = self;
        let kv = dim / self.heads * self.kv_heads;
        let embedding = (EMBED_TOKENS, vocab * dim);
        let input_norms = ("layers.N.input_norm.weight", dim);
        let mlp_norms = ("layers.N.post_attention_norm.weight", dim);
        let norm = ("norm.weight", dim);
        let attention = [
            ("layers.N.self_attn.q_proj.weight", dim * dim),
            ("layers.N.self_attn.k_proj.weight", kv * dim),
            ("layers.N.self_attn.v_proj.weight", kv * dim),
            ("layers.N.self_attn.o_proj.weight", dim * dim),
        ];
        let mlp = [
            ("layers.N.mlp.gate_proj.weight", hidden * dim),
            ("layers.N.mlp.down_proj.weight", dim * hidden),
            ("layers.N.mlp.up_proj.weight", hidden * dim),
        ];
        let mut tensors = Vec::new();
        if version == 0 {
            tensors.extend([embedding, input_norms]);
            tensors.extend(attention);
            tensors.push(mlp_norms);
            tensors.extend(mlp);
            // Tables of cosines and sines, which slm computes itself.
            tensors.extend([norm, ("", self.positions * (dim / self.heads))]);
        } else {
            tensors.extend([input_norms, mlp_norms, norm, embedding]);
            tensors.extend(attention);
            tensors.extend(mlp);
        }
        if !self.tied {
            tensors.push(("lm_head.weight", vocab * dim));
        }
        tensors
    }

    fn model(&self) -> std::result::Result<ModelConfig, String> {
        let size = |number: u64| usize::try_from(number).map_err(|_| format!("{number} is too large"));
        let mut model = ModelConfig::new(
            size(self.vocab)?,
            size(self.dim)?,
            size(self.hidden)?,
            size(self.layers)?,
            size(self.heads)?,
            size(self.positions)?,
        );
        model.num_kv_heads = size(self.kv_heads)?;
        model.tie_word_embeddings = self.tied;
        model.position = Position::Rotary(RotaryConfig::new(THETA));
        Ok(model)
    }
}

impl Llama2cFile {
    /// Opens `path` and compares its size with what its header says.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let damaged = |field: &str, problem: String| Error::damaged_file(path, "llama2.c", field, problem);
        let io = |action: &'static str| slm_store::Error::io(path, action);
        let file = PositionedFile::new(File::open(path).map_err(io("open"))?);
        let size = file.size().map_err(io("read the size"))?;
        let mut head = [0_u8; HEADER as usize];
        let known = size.min(HEADER) as usize;
        file.read_exact_at(&mut head[..known], 0).map_err(io("read"))?;
        if known < 28 {
            return Err(damaged("header", format!("it is {size} bytes long, and a header is 28 or 256")));
        }
        let word = |at: usize| i32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let words = |at: usize| std::array::from_fn(|index| word(at + 4 * index));
        let version = if word(0).cast_unsigned() == MAGIC { word(4).cast_unsigned() } else { 0 };
        let (numbers, start, group_size) = match version {
            0 => (Numbers::read(words(0), None), 28, None),
            1 | 2 if size >= HEADER => {
                let tied = match head[36] {
                    0 => false,
                    1 => true,
                    other => return Err(damaged("header", format!("shared_classifier is {other}"))),
                };
                let group_size = (version == 2).then(|| word(37));
                (Numbers::read(words(8), Some(tied)), HEADER, group_size)
            }
            1 | 2 => return Err(damaged("header", "it ends inside the header".to_owned())),
            other => {
                let what = format!("its version is {other}, but only 0, 1 and 2 are supported");
                return Err(Error::unsupported(
                    path,
                    what,
                    "export it with version 1 of llama2.c's export.py",
                ));
            }
        };
        let numbers = numbers.map_err(|problem| damaged("header", problem))?;
        let group_size = match group_size {
            None => None,
            Some(size) => Some(
                usize::try_from(size)
                    .ok()
                    .filter(|&size| size > 0)
                    .ok_or_else(|| damaged("header", format!("group_size is {size}")))?,
            ),
        };
        // In 64 bits, because each factor is below 2^31.
        let tensors = numbers.tensors(version);
        let is_quantized = |name: &str| group_size.is_some() && !name.contains("norm");
        let bytes = |name: &str, len: u64| match group_size.filter(|_| is_quantized(name)) {
            None => u128::from(len) * 4,
            Some(group) => u128::from(len) + u128::from(len / group as u64) * 4,
        };
        let count = |name: &str| if name.contains('N') { u128::from(numbers.layers) } else { 1 };
        let expected = u128::from(start)
            + tensors.iter().map(|&(name, len)| bytes(name, len) * count(name)).sum::<u128>();
        if expected != u128::from(size) {
            let problem =
                format!("it is {size} bytes long, and a model of its numbers ({numbers}) {expected}");
            return Err(damaged("header", problem));
        }
        if let Some(group) = group_size
            && let Some((name, len)) =
                tensors.iter().find(|(name, len)| is_quantized(name) && len % group as u64 != 0)
        {
            return Err(damaged(name, format!("its {len} values cannot be split into groups of {group}")));
        }
        // From here on, all sizes are bounded by the size of the file.
        let mut places = Vec::new();
        let mut at = start;
        for (name, len) in tensors {
            for layer in 0..count(name) as u64 {
                let name = name.replace('N', &layer.to_string());
                let quantized = is_quantized(&name);
                let end = at + bytes(&name, len) as u64;
                places.push(Place { name, len: len as usize, start: at, quantized });
                at = end;
            }
        }
        let model = numbers.model().map_err(|problem| damaged("header", problem))?;
        model.validate().map_err(|error| damaged("header", error.to_string()))?;
        Ok(Self { model, version, group_size, file, places })
    }

    /// Makes all further reads fail once `stop` is set.
    pub(super) fn stop_at(&mut self, stop: StopFlag) {
        self.file.stop_at(stop);
    }

    /// SHA-256 of the file, in lower-case hexadecimal digits.
    pub(super) fn sha256(&self, path: &Path) -> Result<String> {
        Ok(sha256_of(path, &self.file)?)
    }

    fn place(&self, path: &Path, name: &str) -> Result<&Place> {
        let found = self.places.iter().find(|place| place.name == name);
        found.ok_or_else(|| Error::damaged_file(path, "llama2.c", name, "is missing".to_owned()))
    }

    /// Returns `true` if a tensor is stored as codes.
    pub(super) fn is_quantized(&self, name: &str) -> bool {
        self.places.iter().any(|place| place.name == name && place.quantized)
    }

    /// The values of a tensor that is stored as floats.
    pub(super) fn floats(&self, path: &Path, name: &str) -> Result<Vec<f32>> {
        let place = self.place(path, name)?;
        self.read_floats(path, name, place.start, place.len)
    }

    /// The codes and scales of a tensor.
    pub(super) fn codes(&self, path: &Path, name: &str) -> Result<(Vec<u8>, Vec<f32>)> {
        let place = self.place(path, name)?;
        let codes = self.read(path, place.start, place.len)?;
        let groups = place.len / self.group_size.unwrap_or(1);
        Ok((codes, self.read_floats(path, name, place.start + place.len as u64, groups)?))
    }

    fn read_floats(&self, path: &Path, name: &str, start: u64, len: usize) -> Result<Vec<f32>> {
        let bytes = self.read(path, start, len * 4)?;
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => {
                let problem = format!("value {index} is {}", values[index]);
                Err(Error::damaged_file(path, "llama2.c", name, problem))
            }
        }
    }

    fn read(&self, path: &Path, start: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, start).map_err(slm_store::Error::io(path, "read"))?;
        Ok(bytes)
    }
}

/// Returns `true` if `path` is a file of llama2.c: by its magic number, or by its size for version 0, which has none.
pub fn is_llama2c(path: &Path) -> bool {
    hf::head(path)
        .is_some_and(|head| head.starts_with(&MAGIC.to_le_bytes()) || Llama2cFile::open(path).is_ok())
}

/// Returns the error for a `.bin` file that is neither a Python pickle nor a valid file of llama2.c; `None` for other
/// files.
pub fn explain_bin(path: &Path) -> Option<Error> {
    if !hf::is_unrecognized_bin(path) {
        return None;
    }
    match Llama2cFile::open(path).err()? {
        Error::Damaged { field, problem, .. } => {
            let what = format!(
                "it does not begin as a Python pickle does, and is not a valid llama2.c file: {field}: {problem}"
            );
            Some(Error::unsupported(path, what, "download it or export it again"))
        }
        other => Some(other),
    }
}

/// The name of the quantized layer that a tensor becomes.
pub(super) fn quantized_layer(model: &ModelConfig, tensor: &str) -> String {
    match tensor {
        EMBED_TOKENS if model.tie_word_embeddings => LM_HEAD.to_owned(),
        other => layer_of(other).to_owned(),
    }
}
