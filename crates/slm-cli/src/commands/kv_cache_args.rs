//! Option for the type of stored keys and values.

use clap::Args;
use slm_model::{KvCacheType, Transformer};

#[derive(Debug, Args)]
pub(super) struct KvCacheArgs {
    /// Type in which keys and values are stored: f32, f16, int8 or int4, each with about half the memory of the one
    /// before
    #[arg(long, value_name = "TYPE", default_value_t = KvCacheType::F16)]
    kv_cache: KvCacheType,
}

impl KvCacheArgs {
    pub(super) fn apply(&self, model: &mut Transformer) {
        model.set_kv_cache_type(self.kv_cache);
    }
}
