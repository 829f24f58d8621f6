//! Trainable quantized weights as a Burn module: the pending update, and the packed weights under `packed`.

use std::sync::Arc;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;

use super::{QuantizedTrainableWeight, Stored};

/// Burn's name of the type that holds the parameters.
const CONTAINER: &str = "Struct:QuantizedTrainableWeight";

/// A record holds the codes and scales, but not the residual of error feedback.
impl Module for QuantizedTrainableWeight {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("update", CONTAINER);
        self.update.visit(visitor);
        visitor.exit_module("update", CONTAINER);
        visitor.enter_module("packed", CONTAINER);
        self.packed().visit(visitor);
        visitor.exit_module("packed", CONTAINER);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        mapper.enter_module("update", CONTAINER);
        let update = Module::map(self.update, mapper);
        mapper.exit_module("update", CONTAINER);
        mapper.enter_module("packed", CONTAINER);
        let packed = self.stored.packed.clone().map(mapper);
        mapper.exit_module("packed", CONTAINER);
        if Arc::ptr_eq(packed.matrix(), self.stored.packed.matrix()) {
            return Self { update, stored: self.stored };
        }
        // The old residual belongs to the old weights.
        let residual = vec![0; self.stored.residual.len()];
        Self { update, stored: Arc::new(Stored { packed, residual }) }
    }

    fn collect_devices(&self, devices: Devices) -> Devices {
        self.update.collect_devices(devices)
    }

    fn to_device(self, device: &Device) -> Self {
        Self { update: self.update.to_device(device), stored: self.stored }
    }

    fn fork(self, device: &Device) -> Self {
        Self { update: self.update.fork(device), stored: self.stored }
    }

    fn valid(&self) -> Self {
        Self { update: self.update.valid(), stored: Arc::clone(&self.stored) }
    }

    fn train(self) -> Self {
        Self { update: self.update.train(), stored: self.stored }
    }

    fn materialize(self) -> Self {
        Self { update: self.update.materialize(), stored: self.stored }
    }
}

impl ModuleDisplayDefault for QuantizedTrainableWeight {
    fn content(&self, content: Content) -> Option<Content> {
        content.add("update", &self.update).add("packed", self.packed()).optional()
    }
}

impl ModuleDisplay for QuantizedTrainableWeight {}
