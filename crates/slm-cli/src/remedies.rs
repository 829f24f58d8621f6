//! Options of the program that do what errors of the libraries advise, as the end of their messages.

use slm_checkpoint::StoreError;
use slm_store::manifest::MANIFEST;

/// An error whose remedy may be an option of the program.
pub(crate) trait Remedy {
    /// The options in parentheses, after a space; empty if there are none.
    fn options(&self) -> &'static str;

    /// The error of a file that it passes on, if any.
    fn store(&self) -> Option<&StoreError>;
}

impl Remedy for StoreError {
    fn options(&self) -> &'static str {
        match self {
            Self::OutputExists { .. } => " (--overwrite)",
            Self::Missing { path, .. } if path.file_name().is_some_and(|name| name == MANIFEST) => {
                " (--no-verify)"
            }
            _ => "",
        }
    }

    fn store(&self) -> Option<&StoreError> {
        Some(self)
    }
}

impl Remedy for slm_checkpoint::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::Store(error) => error.options(),
            Self::NeedsQuantized { .. } => " (slm ptq --checkpoint DIR)",
            Self::NeedsDequantizing { .. } | Self::ImportOption { option: "dequantize", .. } => {
                " (--dequantize)"
            }
            Self::ImportOption { option: "dynamic", .. } => " (--type dynamic)",
            _ => "",
        }
    }

    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl Remedy for slm_exchange::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::Store(error) => error.options(),
            Self::Checkpoint(error) => error.options(),
            Self::NotInFormat { .. } => " (--format hf)",
            Self::NotInProfile { .. } => " (without --profile)",
            Self::Inexact { rounds_scales, dequantizes, .. } => match (rounds_scales, dequantizes) {
                (true, true) => {
                    "; quantize with slm ptq --scale-dtype f16 --skip NAME, or accept this (without --strict)"
                }
                (true, false) => {
                    "; quantize with slm ptq --scale-dtype f16, or accept this (without --strict)"
                }
                (false, true) => {
                    "; keep such layers float with slm ptq --skip, or accept this (without --strict)"
                }
                (false, false) => "; accept this (without --strict)",
            },
            _ => "",
        }
    }

    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Checkpoint(error) => error.store(),
            _ => None,
        }
    }
}

impl Remedy for slm_model::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::KvOverflow { .. } => " (--kv-cache f32)",
            _ => "",
        }
    }

    fn store(&self) -> Option<&StoreError> {
        let Self::Source { source, .. } = self else { return None };
        let read = source.downcast_ref::<slm_ptq::Error>().and_then(Remedy::store);
        let read = read.or_else(|| source.downcast_ref::<slm_checkpoint::Error>()?.store());
        read.or_else(|| source.downcast_ref())
    }
}

impl Remedy for slm_ptq::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::Checkpoint(error) => error.options(),
            Self::Model(error) => error.options(),
            Self::UnfinishedRun { .. } => " (--resume, or --overwrite to start over)",
            Self::NotResumable { dir, .. } if dir.exists() => " (with --overwrite in place of --resume)",
            Self::NotResumable { .. } => " (without --resume)",
            _ => "",
        }
    }

    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Checkpoint(error) => error.store(),
            Self::Model(error) => error.store(),
            _ => None,
        }
    }
}

impl Remedy for slm_nn::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::TuningDevice => " (--device flex)",
            _ => "",
        }
    }

    fn store(&self) -> Option<&StoreError> {
        None
    }
}

impl Remedy for slm_qat::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::Option { option: "scale", .. } => " (--learned-scales)",
            Self::Plan(error) => error.options(),
            _ => "",
        }
    }

    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Plan(error) => error.store(),
            _ => None,
        }
    }
}

impl Remedy for slm_train::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::Checkpoint(error) => error.options(),
            Self::Model(error) => error.options(),
            Self::Ptq(error) => error.options(),
            Self::Qat(error) => error.options(),
            Self::Layer { source, .. } => source.options(),
            Self::QuantizedEmbedding => " (one that was quantized without --embeddings)",
            Self::SkippedQuantized { .. } => " (slm ptq --skip)",
            Self::NoTeacher => " (--checkpoint, or --teacher if training starts from a quantized model)",
            Self::NotQuantized => " (--checkpoint)",
            Self::MissingSection { .. } => " (slm config init writes a config with every key)",
            Self::UnfinishedRun { .. } => " (--resume, or --overwrite)",
            Self::NotResumable { .. } => " (without --resume)",
            _ => "",
        }
    }

    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Checkpoint(error) => error.store(),
            Self::Model(error) => error.store(),
            Self::Ptq(error) => error.store(),
            Self::Qat(error) => error.store(),
            _ => None,
        }
    }
}

impl Remedy for slm_serve::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::Bind { .. } => " (--port, --host)",
            Self::Model(error) => error.options(),
            _ => "",
        }
    }

    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Model(error) => error.store(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::error::Error;

    #[test]
    fn the_program_adds_the_options_that_libraries_do_not_know() {
        let path = || PathBuf::from("out");
        let exists = || StoreError::OutputExists { path: path() };
        let checkpoint = || slm_checkpoint::Error::Store(exists());
        let unverified =
            StoreError::Missing { path: path().join(MANIFEST), remedy: "skip verification".to_owned() };
        let overflow = slm_model::Error::KvOverflow { layer: 1, value: 1e6 };
        let cases: Vec<(String, Error, &str)> = vec![
            (exists().to_string(), exists().into(), "--overwrite"),
            (exists().to_string(), slm_train::Error::from(checkpoint()).into(), "--overwrite"),
            (exists().to_string(), slm_exchange::Error::from(checkpoint()).into(), "--overwrite"),
            (unverified.to_string(), unverified.into(), "--no-verify"),
            (overflow.to_string(), overflow.into(), "--kv-cache f32"),
            {
                let error = slm_train::Error::UnfinishedRun { dir: path(), step: 1, steps: 2 };
                (error.to_string(), error.into(), "--resume")
            },
            {
                let error = slm_ptq::Error::UnfinishedRun { dir: path(), count: 3 };
                (error.to_string(), error.into(), "--resume")
            },
        ];
        let bind = || slm_serve::Error::Bind {
            address: "here:80".to_owned(),
            source: std::io::ErrorKind::AddrInUse.into(),
        };
        let option =
            slm_qat::Error::Option { option: "scale", detail: "is bad".to_owned(), remedy: "change it" };
        let skipped =
            || slm_train::Error::SkippedQuantized { layer: "lm_head".to_owned(), reason: "lm_*".to_owned() };
        let device =
            || slm_train::Error::Layer { layer: "lm_head".to_owned(), source: slm_nn::Error::TuningDevice };
        let float = || slm_checkpoint::Error::NeedsQuantized { path: path() };
        let dequantize =
            slm_checkpoint::Error::NeedsDequantizing { path: path(), problem: "3 bits".to_owned() };
        let floats = slm_checkpoint::Error::import_of_floats(&path(), false);
        let format = slm_exchange::Error::NotInFormat { path: path(), what: "too new".to_owned() };
        let profile = slm_exchange::Error::NotInProfile { path: path(), what: "too new".to_owned() };
        let inexact = |rounds_scales, dequantizes| slm_exchange::Error::Inexact {
            path: path(),
            reasons: vec!["rounded".to_owned()],
            rounds_scales,
            dequantizes,
        };
        let cases = cases.into_iter().chain([
            (dequantize.to_string(), slm_exchange::Error::from(dequantize).into(), "(--dequantize)"),
            (floats.to_string(), floats.into(), "(--type dynamic)"),
            (format.to_string(), format.into(), "(--format hf)"),
            (profile.to_string(), profile.into(), "(without --profile)"),
            (inexact(true, false).to_string(), inexact(true, false).into(), "--scale-dtype f16"),
            (inexact(false, true).to_string(), inexact(false, true).into(), "--skip"),
            (inexact(true, true).to_string(), inexact(true, true).into(), "--scale-dtype f16 --skip"),
            (inexact(false, false).to_string(), inexact(false, false).into(), "(without --strict)"),
        ]);
        let cases = cases.chain([
            (bind().to_string(), bind().into(), "--port"),
            (option.to_string(), slm_train::Error::from(option).into(), "--learned-scales"),
            (skipped().to_string(), skipped().into(), "--skip"),
            (device().to_string(), device().into(), "--device"),
            (float().to_string(), float().into(), "slm ptq"),
        ]);
        for (library, program, option) in cases {
            let said = program.to_string();
            assert!(said.starts_with(&library) && said.contains(option), "{said}");
            assert!(!library.contains("--"), "{library}");
        }
        let stopped = || slm_checkpoint::Error::Store(StoreError::Stopped);
        let in_model = slm_model::Error::Source { name: "lm_head".to_owned(), source: Box::new(stopped()) };
        let stops: [Error; 5] = [
            StoreError::Stopped.into(),
            stopped().into(),
            slm_exchange::Error::from(stopped()).into(),
            slm_train::Error::from(slm_ptq::Error::from(in_model)).into(),
            slm_ptq::Error::from(stopped()).into(),
        ];
        for stop in stops {
            assert!(matches!(stop, Error::Interrupted), "{stop}");
        }
        let missing = StoreError::Missing { path: path(), remedy: "name another".to_owned() };
        assert_eq!(missing.options(), "");
    }
}
