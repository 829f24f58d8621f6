//! The vector instruction sets, and detection of those that this processor has.

use crate::KernelKind;
#[cfg(target_arch = "aarch64")]
use crate::dotprod::DotProd;
#[cfg(target_arch = "x86_64")]
use crate::{avx2::Avx2, avx512vnni::Avx512Vnni};

/// A vector instruction set that this processor has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Isa {
    #[cfg(target_arch = "aarch64")]
    DotProd(DotProd),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
}

/// Evaluates `$body` with the [`Simd`](crate::simd::Simd) value of any instruction set.
macro_rules! with_isa {
    ($isa:expr, $simd:pat => $body:expr) => {
        match $isa {
            #[cfg(target_arch = "aarch64")]
            $crate::isa::Isa::DotProd($simd) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx2($simd) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx512Vnni($simd) => $body,
        }
    };
}
pub(crate) use with_isa;

impl Isa {
    /// The instruction set of a kernel, if this processor has it. `None` for the scalar kernel, which needs none.
    pub(crate) fn new(kind: KernelKind) -> Option<Self> {
        match kind {
            #[cfg(target_arch = "aarch64")]
            KernelKind::DotProd => DotProd::new().map(Self::DotProd),
            #[cfg(target_arch = "x86_64")]
            KernelKind::Avx2 => Avx2::new().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            KernelKind::Avx512Vnni => Avx512Vnni::new().map(Self::Avx512Vnni),
            _ => None,
        }
    }

    /// The kernel that is built on this instruction set.
    pub(crate) fn kind(self) -> KernelKind {
        match self {
            #[cfg(target_arch = "aarch64")]
            Self::DotProd(_) => KernelKind::DotProd,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => KernelKind::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) => KernelKind::Avx512Vnni,
        }
    }
}
