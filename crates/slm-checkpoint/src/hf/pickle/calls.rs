//! Names of the classes and functions that a pickle calls in Python, found without calling any.
//!
//! The opcodes are those of CPython's `pickletools.py`. A name may be built from texts on the stack (`STACK_GLOBAL`),
//! so the texts on the stack are tracked.

use std::collections::HashMap;
use std::rc::Rc;

/// Module and name of allowed calls, `*` for any name: the part of the list of torch's `weights_only` that tensors and
/// their containers need.
const ALLOWED: &[(&str, &str)] = &[
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("__builtin__", "set"),
    ("__builtin__", "frozenset"),
    ("torch", "Size"),
    ("torch", "Tensor"),
    ("torch", "device"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.storage", "UntypedStorage"),
    ("torch.storage", "TypedStorage"),
];
/// Allowed types of tensors in `torch`.
const TYPES: &[&str] = &[
    "float", "double", "half", "bfloat16", "long", "int", "short", "bool", "float16", "float32", "float64",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
];
/// Magic number of a file that is not an archive, in its two pickled forms: as bytes, or as text.
const MAGIC: [&[u8]; 2] =
    [&[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19], b"119547037146038801333356"];
/// Number of pickles in such a file: magic number, version, system, object, and keys of the storages.
const PICKLES: usize = 5;
/// Number of bytes at the beginning that contain the magic number.
const HEAD: usize = 64;

fn is_allowed(module: &str, name: &str) -> bool {
    let is_type = TYPES.contains(&name) || name.ends_with("Storage");
    (module == "torch" && is_type) || ALLOWED.contains(&(module, name))
}

/// Returns the first name that is not allowed in the pickles at the beginning of `bytes`; an error for bytes that are
/// not a pickle.
pub(super) fn first_forbidden(bytes: &[u8]) -> Result<Option<String>, String> {
    let head = &bytes[..bytes.len().min(HEAD)];
    let is_old = MAGIC.iter().any(|magic| head.windows(magic.len()).any(|window| window == *magic));
    let mut reader = Reader { bytes, at: 0 };
    for _ in 0..if is_old { PICKLES } else { 1 } {
        if let Some(name) = Machine::default().run(&mut reader)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| "it ends inside an instruction".to_owned())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// Reads a little-endian number of `width` bytes.
    fn number(&mut self, width: usize) -> Result<u64, String> {
        Ok(self.take(width)?.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte)))
    }

    /// Reads a length of `width` bytes and then that many bytes.
    fn counted(&mut self, width: usize) -> Result<&'a [u8], String> {
        let count = usize::try_from(self.number(width)?).unwrap_or(usize::MAX);
        self.take(count)
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..end.ok_or_else(|| "it ends inside a line".to_owned())?];
        self.at += line.len() + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(String::from_utf8_lossy(line).into_owned())
    }
}

/// A text, or `None` for any other value.
type Item = Option<Rc<str>>;

#[derive(Default)]
struct Machine {
    stack: Vec<Item>,
    marks: Vec<usize>,
    memo: HashMap<u64, Item>,
}

impl Machine {
    /// Runs to the end of the pickle, or to the first name that is not allowed, which it returns.
    fn run(mut self, reader: &mut Reader<'_>) -> Result<Option<String>, String> {
        loop {
            let code = reader.take(1)?[0];
            match code {
                b'.' => return Ok(None),
                // Opcodes for the version and for frames.
                0x80 => drop(reader.take(1)?),
                0x95 => drop(reader.take(8)?),
                // Opcodes for names.
                b'c' | b'i' => {
                    let (module, name) = (reader.line()?, reader.line()?);
                    if !is_allowed(&module, &name) {
                        return Ok(Some(format!("{module}.{name}")));
                    }
                    if code == b'i' {
                        self.pop_mark()?;
                    }
                    self.stack.push(None);
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Some(module), Some(name)) = (module, name) else {
                        return Err("it computes the name of a function".to_owned());
                    };
                    if !is_allowed(&module, &name) {
                        return Ok(Some(format!("{module}.{name}")));
                    }
                    self.stack.push(None);
                }
                0x82..=0x84 => {
                    let width = 1 << (code - 0x82);
                    return Ok(Some(format!("number {} of Python's registry", reader.number(width)?)));
                }
                // Opcodes for texts.
                b'V' | b'S' => {
                    let text = reader.line()?;
                    self.stack.push(Some(text.into()));
                }
                b'U' | 0x8c => self.push_text(reader.counted(1)?),
                b'T' | b'X' => self.push_text(reader.counted(4)?),
                0x8d => self.push_text(reader.counted(8)?),
                // Opcodes for other values.
                b'C' | 0x8a => self.push_other(reader.counted(1)?),
                b'B' | 0x8b => self.push_other(reader.counted(4)?),
                0x8e | 0x96 => self.push_other(reader.counted(8)?),
                b'I' | b'L' | b'F' | b'P' => {
                    reader.line()?;
                    self.stack.push(None);
                }
                b'J' => self.push_other(reader.take(4)?),
                b'K' => self.push_other(reader.take(1)?),
                b'M' => self.push_other(reader.take(2)?),
                b'G' => self.push_other(reader.take(8)?),
                b'N' | 0x88 | 0x89 | b')' | b']' | b'}' | 0x8f => self.stack.push(None),
                // Opcodes for containers.
                b'(' => self.marks.push(self.stack.len()),
                b't' | b'l' | b'd' | 0x91 | b'o' => {
                    self.pop_mark()?;
                    self.stack.push(None);
                }
                b'e' | b'u' | 0x90 | b'1' => self.pop_mark()?,
                0x85 => self.replace(1)?,
                0x86 | b'R' | 0x81 | b'b' => self.replace(2)?,
                0x87 | 0x92 => self.replace(3)?,
                b'a' => drop(self.pop()?),
                b's' => {
                    self.pop()?;
                    self.pop()?;
                }
                b'Q' => self.replace(1)?,
                b'0' => match self.marks.last() == Some(&self.stack.len()) {
                    true => drop(self.marks.pop()),
                    false => drop(self.pop()?),
                },
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                // Opcodes for the memo.
                b'g' | b'p' => {
                    let index = reader.line()?.parse().map_err(|_| "an index is not a number".to_owned())?;
                    self.remember(code == b'p', index)?;
                }
                b'h' | b'q' => {
                    let index = reader.number(1)?;
                    self.remember(code == b'q', index)?;
                }
                b'j' | b'r' => {
                    let index = reader.number(4)?;
                    self.remember(code == b'r', index)?;
                }
                0x94 => self.remember(true, self.memo.len() as u64)?,
                _ => return Err(format!("byte {code:#04x} is not an instruction of a pickle")),
            }
        }
    }

    fn push_text(&mut self, bytes: &[u8]) {
        self.stack.push(std::str::from_utf8(bytes).ok().map(Rc::from));
    }

    fn push_other(&mut self, _bytes: &[u8]) {
        self.stack.push(None);
    }

    fn top(&self) -> Result<Item, String> {
        match self.marks.last() == Some(&self.stack.len()) {
            true => Err("a value is missing".to_owned()),
            false => self.stack.last().cloned().ok_or_else(|| "a value is missing".to_owned()),
        }
    }

    fn pop(&mut self) -> Result<Item, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Removes the last mark and all values above it.
    fn pop_mark(&mut self) -> Result<(), String> {
        let mark = self.marks.pop().ok_or_else(|| "a mark is missing".to_owned())?;
        self.stack.truncate(mark);
        Ok(())
    }

    /// Replaces `count` values by one.
    fn replace(&mut self, count: usize) -> Result<(), String> {
        for _ in 0..count {
            self.pop()?;
        }
        self.stack.push(None);
        Ok(())
    }

    /// Stores the top of the stack in the memo, or pushes an entry of the memo.
    fn remember(&mut self, put: bool, index: u64) -> Result<(), String> {
        if put {
            let top = self.top()?;
            self.memo.insert(index, top);
        } else {
            let item = self.memo.get(&index).cloned().ok_or_else(|| "a memory is missing".to_owned())?;
            self.stack.push(item);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden(bytes: &[u8]) -> Option<String> {
        first_forbidden(bytes).unwrap()
    }

    #[test]
    fn names_are_found_however_they_are_spelled() {
        // Pickles of `class A: __reduce__ = lambda self: (os.system, ("id",))` in protocols 0, 2 and 4.
        let zero = b"cposix\nsystem\np0\n(Vid\np1\ntp2\nRp3\n.";
        let two = b"\x80\x02cposix\nsystem\nq\x00X\x02\x00\x00\x00idq\x01\x85q\x02Rq\x03.";
        let four = b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.";
        for bytes in [&zero[..], two, four] {
            assert_eq!(forbidden(bytes).as_deref(), Some("posix.system"));
        }
        // The texts come from the memo, in a different order.
        let memo = b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94000h\x01h\x00\x93.";
        assert!(first_forbidden(memo).is_err(), "one value too many is taken");
        let memo = b"\x80\x04\x8c\x06system\x94\x8c\x02os\x9400h\x01h\x00\x93)R.";
        assert_eq!(forbidden(memo).as_deref(), Some("os.system"));
        assert_eq!(forbidden(b"(ios\nsystem\n.").as_deref(), Some("os.system"));
        assert_eq!(forbidden(b"\x80\x02\x82\x05.").as_deref(), Some("number 5 of Python's registry"));
        assert_eq!(forbidden(b"cbuiltins\neval\n.").as_deref(), Some("builtins.eval"));
        assert_eq!(forbidden(b"ctorch.hub\nload\n.").as_deref(), Some("torch.hub.load"));
        // Names of other modules that an allowed module imports are not allowed.
        assert_eq!(
            forbidden(b"ctorch._utils\n_import_dotted_name\n.").as_deref(),
            Some("torch._utils._import_dotted_name")
        );
    }

    #[test]
    fn tensors_are_allowed_and_rubbish_is_no_pickle() {
        let tensor = b"\x80\x02ccollections\nOrderedDict\n)Rctorch._utils\n_rebuild_tensor_v2\nctorch\nFloatStorage\n\x87.";
        assert_eq!(forbidden(tensor), None);
        for bytes in [
            &b""[..],
            b"\x80",
            b"\xff",
            b"c",
            b"cos\nsys",
            b"\x93.",
            b"X\xff\xff\xff\xffab",
            b"h\x00.",
            b"t.",
        ] {
            assert!(first_forbidden(bytes).is_err(), "{bytes:?}");
        }
    }
}
