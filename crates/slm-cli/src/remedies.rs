//! Options of the program that do what errors of the libraries advise, as the end of their messages.

use slm_checkpoint::StoreError;
use slm_store::manifest::MANIFEST;

/// An error whose remedy may be an option of the program.
pub(crate) trait Remedy {
    /// The options in parentheses, after a space; empty if there are none.
    fn options(&self) -> &'static str;
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
}

impl Remedy for slm_checkpoint::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::Store(error) => error.options(),
            Self::NeedsQuantized { .. } => " (slm ptq --checkpoint DIR)",
            _ => "",
        }
    }
}

impl Remedy for slm_exchange::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::Store(error) => error.options(),
            Self::Checkpoint(error) => error.options(),
            _ => "",
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
}

impl Remedy for slm_nn::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::TuningDevice => " (--device flex)",
            _ => "",
        }
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
}

impl Remedy for slm_serve::Error {
    fn options(&self) -> &'static str {
        match self {
            Self::Bind { .. } => " (--port, --host)",
            Self::Model(error) => error.options(),
            _ => "",
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
        let cases = cases.into_iter().chain([
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
        let missing = StoreError::Missing { path: path(), remedy: "name another".to_owned() };
        assert_eq!(missing.options(), "");
    }
}
