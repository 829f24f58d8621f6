//! Names of the linears inside Rust's containers.

use super::NamedLinears;
use super::derived::{visit_field, visit_field_mut};
use crate::Linear;

/// A layer by itself has an empty name: its container names it.
impl NamedLinears for Linear {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        visit("", self);
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        visit("", self);
    }
}

impl<T: NamedLinears> NamedLinears for Option<T> {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        self.iter().for_each(|module| module.for_each_linear(visit));
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.iter_mut().for_each(|module| module.for_each_linear_mut(visit));
    }
}

impl<T: NamedLinears + ?Sized> NamedLinears for Box<T> {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        (**self).for_each_linear(visit);
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        (**self).for_each_linear_mut(visit);
    }
}

impl<T: NamedLinears> NamedLinears for [T] {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        for (index, module) in self.iter().enumerate() {
            visit_field(module, &index.to_string(), visit);
        }
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        for (index, module) in self.iter_mut().enumerate() {
            visit_field_mut(module, &index.to_string(), visit);
        }
    }
}

impl<T: NamedLinears> NamedLinears for Vec<T> {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        self.as_slice().for_each_linear(visit);
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.as_mut_slice().for_each_linear_mut(visit);
    }
}

impl<T: NamedLinears, const N: usize> NamedLinears for [T; N] {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        self.as_slice().for_each_linear(visit);
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.as_mut_slice().for_each_linear_mut(visit);
    }
}

macro_rules! tuples {
    ($(($($index:tt $name:ident),+);)+) => {$(
        impl<$($name: NamedLinears),+> NamedLinears for ($($name,)+) {
            fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
                $(visit_field(&self.$index, stringify!($index), visit);)+
            }

            fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
                $(visit_field_mut(&mut self.$index, stringify!($index), visit);)+
            }
        }
    )+};
}

tuples! {
    (0 A);
    (0 A, 1 B);
    (0 A, 1 B, 2 C);
    (0 A, 1 B, 2 C, 3 D);
    (0 A, 1 B, 2 C, 3 D, 4 E);
    (0 A, 1 B, 2 C, 3 D, 4 E, 5 F);
}
