//! Which devices run kernels on cooperative matrices: those where `wgpt doctor` found all of these kernels right, with the same
//! driver and the same kernels, and those that are told to by `WGPT_VARIANT`. On any other, plans do not know of them.

use super::executor::Gpu;
use crate::error::Result;

impl Gpu {
    /// Lets plans take kernels on cooperative matrices, where the adapter has such matrices.
    pub fn allow_cooperative(&mut self) {
        self.limits_mut().cooperative = self.adapter().limits.cooperative;
    }

    /// Digest of the kernels on cooperative matrices that were right on this adapter with this driver, as far as the folder
    /// that tuning was enabled with knows.
    pub fn cooperative_passed(&self) -> Option<&str> {
        self.tuning.as_ref().and_then(|tuning| tuning.cooperative_passed())
    }

    /// Records that the kernels with this digest were right, or that some were wrong, in the folder that tuning was enabled
    /// with, and has plans take them, or not.
    pub fn record_cooperative(&mut self, passed: Option<&str>) -> Result<()> {
        self.limits_mut().cooperative = 0;
        if passed.is_some() {
            self.allow_cooperative();
        }
        self.tuning.as_mut().map_or(Ok(()), |tuning| tuning.record_cooperative(passed))
    }
}
