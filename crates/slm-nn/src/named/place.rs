//! The current place of a visitor in a module.

/// The current place of a Burn visitor or mapper in a module. Call [`enter`](ModulePlace::enter) and
/// [`exit`](ModulePlace::exit) when the visitor enters and exits a field.
///
/// It tells the parameters of [`Linear`](crate::Linear)s from all others by their place. Ids cannot do that: a clone of a
/// parameter has the id of the original.
#[derive(Debug, Default)]
pub struct ModulePlace {
    /// Name and container of each module on the way.
    path: Vec<(String, String)>,
    /// Path of the layer whose weight was visited last. A weight comes before its bias.
    layer: Option<String>,
}

impl ModulePlace {
    /// Enters the field `name` of a container of the type `container_type`.
    pub fn enter(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_owned(), container_type.to_owned()));
    }

    /// Leaves the field that was entered last.
    pub fn exit(&mut self) {
        self.path.pop();
    }

    /// The path of the current parameter, in Burn's notation.
    pub fn path(&self) -> String {
        self.path_to(self.path.len())
    }

    /// The path of the layer whose weight the current parameter belongs to.
    pub fn linear_of_weight(&self) -> Option<String> {
        let weight = self.path.iter().rposition(|(_, container)| container == "Enum:Weight")?;
        let linear = weight.checked_sub(1).filter(|&at| self.path[at].1 == "Struct:Linear")?;
        Some(self.path_to(linear))
    }

    /// Returns `true` if the current parameter is the weight or the bias of a layer. Call it at every parameter, in
    /// order.
    pub fn is_in_linear(&mut self) -> bool {
        if let Some(layer) = self.linear_of_weight() {
            self.layer = Some(layer);
            return true;
        }
        // Burn's own layer has the same name, but the weight before its bias is not an enum.
        match self.path.last() {
            Some((field, container)) if field == "bias" && container == "Struct:Linear" => {
                self.layer.as_ref().is_some_and(|layer| *layer == self.path_to(self.path.len() - 1))
            }
            _ => false,
        }
    }

    fn path_to(&self, end: usize) -> String {
        let names: Vec<&str> = self.path[..end].iter().map(|(name, _)| name.as_str()).collect();
        names.join(".")
    }
}
