//! Search for linears that a module contains but does not name.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Int, Tensor};

use super::NamedLinears;
use super::place::ModulePlace;

/// Paths, in Burn's notation, of the [`Linear`](crate::Linear)s of `module` that [`NamedLinears`] does not visit.
///
/// Such a layer would stay float and would not be saved. The usual cause is a nested type without
/// `#[derive(NamedLinears)]`, or a tuple of layers and other modules.
pub fn unnamed_linears<M: Module + NamedLinears>(module: &M) -> Vec<String> {
    let mut names = BTreeSet::new();
    // Clones of a layer share its ids.
    let mut named: BTreeMap<ParamId, usize> = BTreeMap::new();
    module.for_each_linear(&mut |name, linear| {
        names.insert(name.to_owned());
        let mut first = FirstId(None);
        linear.weight.visit(&mut first);
        if let Some(id) = first.0 {
            *named.entry(id).or_default() += 1;
        }
    });
    let mut walk = Walk::default();
    module.visit(&mut walk);
    let mut is_named = |id: ParamId| match named.get_mut(&id) {
        Some(count @ 1..) => {
            *count -= 1;
            true
        }
        _ => false,
    };
    // Among clones, the named one is a clone whose path equals its name.
    let (in_place, others): (Vec<_>, Vec<_>) =
        walk.layers.into_iter().partition(|(path, _)| names.contains(path));
    in_place.into_iter().chain(others).filter(|(_, id)| !is_named(*id)).map(|(path, _)| path).collect()
}

/// The id of the first parameter.
struct FirstId(Option<ParamId>);

impl ModuleVisitor for FirstId {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.get_or_insert(param.id);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.get_or_insert(param.id);
    }
}

/// Finds layers by the type that holds their weights.
#[derive(Default)]
struct Walk {
    place: ModulePlace,
    /// Path of each layer, and the id of its first parameter.
    layers: Vec<(String, ParamId)>,
}

impl Walk {
    fn look(&mut self, id: ParamId) {
        if let Some(path) = self.place.linear_of_weight()
            && self.layers.last().is_none_or(|(last, _)| *last != path)
        {
            self.layers.push((path, id));
        }
    }
}

impl ModuleVisitor for Walk {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.enter(name, container_type);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.look(param.id);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.look(param.id);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.look(param.id);
    }
}
