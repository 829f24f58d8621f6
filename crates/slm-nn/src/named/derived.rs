//! The parts that derived implementations of [`NamedLinears`] are made of.

use super::{NamedLinears, join};
use crate::Linear;

/// Visits the layers of `field`, whose names follow `name`.
pub fn visit_field<T: NamedLinears + ?Sized>(field: &T, name: &str, visit: &mut dyn FnMut(&str, &Linear)) {
    field.for_each_linear(&mut |below, linear| visit(&join(name, below), linear));
}

/// Mutable variant of [`visit_field`].
pub fn visit_field_mut<T: NamedLinears + ?Sized>(
    field: &mut T,
    name: &str,
    visit: &mut dyn FnMut(&str, &mut Linear),
) {
    field.for_each_linear_mut(&mut |below, linear| visit(&join(name, below), linear));
}

/// A field of any type. Method resolution picks [`VisitLinears`] if the type names linears, and otherwise
/// [`VisitNothing`], which takes one more reference.
#[derive(Debug)]
pub struct Probe<'a, T: ?Sized>(pub &'a T);

/// Mutable variant of [`Probe`].
#[derive(Debug)]
pub struct ProbeMut<'a, T: ?Sized>(pub &'a mut T);

/// The method of a field that names linears.
pub trait VisitLinears {
    /// Visits the layers of the field.
    fn visit_linears(&self, name: &str, visit: &mut dyn FnMut(&str, &Linear));
}

/// The method of a field that names none.
pub trait VisitNothing {
    /// Visits nothing.
    fn visit_linears(&self, _name: &str, _visit: &mut dyn FnMut(&str, &Linear)) {}
}

/// Mutable variant of [`VisitLinears`].
pub trait VisitLinearsMut {
    /// Visits the layers of the field.
    fn visit_linears_mut(&mut self, name: &str, visit: &mut dyn FnMut(&str, &mut Linear));
}

/// Mutable variant of [`VisitNothing`].
pub trait VisitNothingMut {
    /// Visits nothing.
    fn visit_linears_mut(&mut self, _name: &str, _visit: &mut dyn FnMut(&str, &mut Linear)) {}
}

impl<T: NamedLinears + ?Sized> VisitLinears for Probe<'_, T> {
    fn visit_linears(&self, name: &str, visit: &mut dyn FnMut(&str, &Linear)) {
        visit_field(self.0, name, visit);
    }
}

impl<T: ?Sized> VisitNothing for &Probe<'_, T> {}

impl<T: NamedLinears + ?Sized> VisitLinearsMut for ProbeMut<'_, T> {
    fn visit_linears_mut(&mut self, name: &str, visit: &mut dyn FnMut(&str, &mut Linear)) {
        visit_field_mut(self.0, name, visit);
    }
}

impl<T: ?Sized> VisitNothingMut for &mut ProbeMut<'_, T> {}
