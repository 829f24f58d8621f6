//! Random numbers that are the same in every run.

/// The SplitMix64 generator (Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    /// Draws 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Draws a roughly normal number with mean 0 and variance 1: the sum of 12 uniform numbers, minus 6.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.bits() >> 40) as f32 / (1_u64 << 24) as f32).sum::<f32>() - 6.0
    }
}
