//! Linears that a module holds and does not name.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Int, Tensor};

use super::NamedLinears;

/// Paths, in Burn's notation, of the [`Linear`](crate::Linear)s of `module` that [`NamedLinears`] does not visit.
///
/// Such a layer would stay float, and would not be saved: the usual cause is a nested type without
/// `#[derive(NamedLinears)]`, or a tuple of layers and other modules.
pub fn unnamed_linears<M: Module + NamedLinears>(module: &M) -> Vec<String> {
    let mut named = Ids(BTreeSet::new());
    module.for_each_linear(&mut |_, linear| linear.weight.visit(&mut named));
    let mut walk = Walk { path: Vec::new(), named: named.0, unnamed: Vec::new() };
    module.visit(&mut walk);
    walk.unnamed.dedup();
    walk.unnamed
}

/// Ids of all parameters.
struct Ids(BTreeSet<ParamId>);

impl ModuleVisitor for Ids {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.insert(param.id);
    }
}

/// Finds weights by the type that holds them.
struct Walk {
    /// Name and container of each module on the way.
    path: Vec<(String, String)>,
    named: BTreeSet<ParamId>,
    unnamed: Vec<String>,
}

impl Walk {
    fn look(&mut self, id: ParamId) {
        let weight = self.path.iter().rposition(|(_, container)| container == "Enum:Weight");
        let Some(weight) = weight.filter(|&at| at > 0 && self.path[at - 1].1 == "Struct:Linear") else {
            return;
        };
        if !self.named.contains(&id) {
            let names: Vec<&str> = self.path[..weight - 1].iter().map(|(name, _)| name.as_str()).collect();
            self.unnamed.push(names.join("."));
        }
    }
}

impl ModuleVisitor for Walk {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_owned(), container_type.to_owned()));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
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
