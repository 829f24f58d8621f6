//! Exports and imports that are stopped on request write nothing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use slm_checkpoint::hf::import_with;
use slm_checkpoint::{Checkpoint, OpenOptions, SaveRequest, StopFlag, StoreError, save};
use slm_exchange::{Error, ExportOptions, Format, ImportOptions, export, import_gguf};
use slm_model::{ModelConfig, Transformer};

fn is_stopped(error: &Error) -> bool {
    match error {
        Error::Store(error) | Error::Checkpoint(slm_checkpoint::Error::Store(error)) => {
            matches!(error, StoreError::Stopped)
        }
        _ => false,
    }
}

#[test]
fn a_stopped_export_or_import_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let model = Transformer::new(&ModelConfig::new(8, 64, 64, 2, 4, 32), 1, &Device::flex()).unwrap();
    save(path("model"), &model, &SaveRequest::default(), false).unwrap();
    for (format, name) in [(Format::Gguf, "gguf"), (Format::HuggingFace, "hf")] {
        export(&path("model"), &path(name), &ExportOptions::new(format)).unwrap();
    }
    let entries = || fs::read_dir(root.path()).unwrap().count();
    let before = entries();

    let flag = Arc::new(AtomicBool::new(false));
    let stop = StopFlag::from(Arc::clone(&flag));
    // Opened before, so that reading a tensor is stopped and not only opening.
    let open = OpenOptions { stop: stop.clone(), ..OpenOptions::UNVERIFIED };
    let checkpoint = Checkpoint::open_with(path("model"), &open).unwrap();
    assert!(checkpoint.load_model(&Device::flex()).is_ok());
    flag.store(true, Ordering::Relaxed);
    let loaded = checkpoint.load_model(&Device::flex()).map_err(Error::from);
    assert!(loaded.as_ref().is_err_and(is_stopped), "{:?}", loaded.err());

    let formats = [Format::Gguf, Format::HuggingFace, Format::Mlx, Format::Onnx];
    for format in formats {
        let options = ExportOptions { open: open.clone(), ..ExportOptions::new(format) };
        let error = export(&path("model"), &path("new"), &options).unwrap_err();
        assert!(is_stopped(&error), "{format}: {error}");
    }
    let options = ImportOptions { stop, ..ImportOptions::default() };
    let gguf = import_gguf(&path("gguf"), &path("new"), &options).unwrap_err();
    let hf = Error::from(import_with(path("hf"), path("new"), &options).unwrap_err());
    for error in [gguf, hf] {
        assert!(is_stopped(&error), "{error}");
    }
    assert_eq!(entries(), before);
}
