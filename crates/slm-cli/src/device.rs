//! Devices by name.

use burn::tensor::Device;
use clap::ValueEnum;

use crate::error::{Error, Result};

/// A device that a user can select.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// CPU, Burn's Flex backend
    #[value(alias = "cpu")]
    Flex,
    /// CPU, Burn's NdArray backend, which Burn has deprecated
    Ndarray,
    /// GPU
    #[value(alias = "gpu")]
    Wgpu,
}

impl DeviceName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
        }
    }

    pub(crate) fn open(self) -> Result<Device> {
        match self {
            Self::Flex => Ok(Device::flex()),
            Self::Ndarray => slm_nn::ndarray_device().ok_or(Error::NoNdarray),
            Self::Wgpu => wgpu(),
        }
    }
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Result<Device> {
    Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Result<Device> {
    Err(Error::NoWgpu)
}
