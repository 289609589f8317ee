//! Linear layers: products of activations and weights, with what is added in their epilogues, quantised weights and adapters.

use super::blocks::Model;
use super::lora::Adapter;
use crate::graph::{Dtype, Graph, Initial, Parameter, Quantisation, QuantisedAs, Tensor};
use crate::ops::cast::cast;
use crate::ops::gelu::{Form, Gelu};
use crate::ops::matmul::Matmul;

/// Whether a weight is stored as its transpose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// (inputs, outputs)
    InOut,
    /// (outputs, inputs)
    OutIn,
}

/// The parameters of a linear layer.
pub(super) struct Linear {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// Whether the weight is (outputs, inputs).
    pub tb: bool,
    /// How the weight is quantised, where it is.
    pub quantisation: Option<Quantisation>,
    pub adapter: Option<Adapter>,
}

/// The output of a part of a block, before it is added to the residual stream.
pub(super) enum Branch {
    /// x W, or x W + b, which is not made yet.
    Projection {
        x: Tensor,
        linear: Linear,
    },
    Made(Tensor),
}

impl From<Tensor> for Branch {
    fn from(made: Tensor) -> Branch {
        Branch::Made(made)
    }
}

impl Model<'_> {
    /// A product of x and a weight, both as the type of activations, and of x and the weight's adapters.
    pub(super) fn product(
        &self,
        g: &mut Graph,
        x: Tensor,
        Linear { weight, bias, tb, quantisation, adapter }: Linear,
        added: Option<Tensor>,
        op: Matmul,
    ) -> Tensor {
        let b = if quantisation.is_some() { weight } else { cast(g, weight, self.activation()) };
        let mut inputs = vec![cast(g, x, self.activation()), b];
        let op = Matmul { tb, bias: bias.is_some(), residual: added.is_some(), quantisation, ..op };
        inputs.extend(bias.into_iter().chain(added));
        inputs.extend(quantisation.and_then(|_| g.scales(weight)));
        let Some(adapter) = adapter else { return g.apply(op, &inputs) };
        let (gelu, output) = (op.gelu, op.output);
        let y = g.apply(Matmul { gelu: None, output: Dtype::F32, ..op }, &inputs);
        let y = self.adapted(g, y, x, &adapter, output);
        gelu.map_or(y, |form| g.apply(Gelu { form }, &[y]))
    }

    /// x W, or x W + b; `sizes` are its inputs and outputs.
    pub(super) fn linear(
        &self,
        g: &mut Graph,
        x: Tensor,
        name: &str,
        sizes: (usize, usize),
        stored: Stored,
        bias: bool,
    ) -> Tensor {
        let linear = self.weights(g, name, sizes, stored, bias, self.std(1.0));
        self.product(g, x, linear, None, Matmul { output: self.activation(), ..Matmul::default() })
    }

    /// x W^T without a bias, W having initial values of its own.
    pub(super) fn linear_from(
        &self,
        g: &mut Graph,
        x: Tensor,
        name: &str,
        sizes: (usize, usize),
        initial: Initial,
    ) -> Tensor {
        let linear = self.weights(g, name, sizes, Stored::OutIn, false, initial);
        self.product(g, x, linear, None, Matmul { output: self.activation(), ..Matmul::default() })
    }

    /// As [`Model::linear`], for the projections that [`Model::add_residual`] adds to the residual stream, which is f32.
    pub(super) fn projection(
        &self,
        g: &mut Graph,
        x: Tensor,
        name: &str,
        sizes: (usize, usize),
        stored: Stored,
        bias: bool,
    ) -> Branch {
        let initial = self.std(self.residual_scale());
        Branch::Projection { x, linear: self.weights(g, name, sizes, stored, bias, initial) }
    }

    /// As [`Model::linear_from`], for [`Model::add_residual`].
    pub(super) fn projection_from(
        &self,
        g: &mut Graph,
        x: Tensor,
        name: &str,
        sizes: (usize, usize),
        initial: Initial,
    ) -> Branch {
        Branch::Projection { x, linear: self.weights(g, name, sizes, Stored::OutIn, false, initial) }
    }

    /// gelu(x W + b).
    pub(super) fn linear_gelu(
        &self,
        g: &mut Graph,
        x: Tensor,
        name: &str,
        sizes: (usize, usize),
        stored: Stored,
        form: Form,
    ) -> Tensor {
        let linear = self.weights(g, name, sizes, stored, true, self.std(1.0));
        let op = Matmul { gelu: Some(form), output: self.activation(), ..Matmul::default() };
        self.product(g, x, linear, None, op)
    }

    /// The parameters of a linear layer.
    fn weights(
        &self,
        g: &mut Graph,
        name: &str,
        sizes: (usize, usize),
        stored: Stored,
        bias: bool,
        initial: Initial,
    ) -> Linear {
        self.matrices.borrow_mut().push(name.to_string());
        let tb = stored == Stored::OutIn;
        let dims = if tb { [sizes.1, sizes.0] } else { [sizes.0, sizes.1] };
        let quantisation = self.config.quantisation.filter(|quantisation| quantisation.fits(sizes.1, sizes.0));
        let weight = match quantisation {
            None => self.parameter(g, &format!("{name}.weight"), &dims, initial),
            Some(quantisation) => {
                let quantised = Some(QuantisedAs { quantisation, transposed: !tb });
                let (name, depth) = (format!("{}{name}.weight", self.prefix), g.current_depth());
                let dims = dims.to_vec();
                g.declare(
                    self.network,
                    &Parameter { name, dims, initial, decays: true, depth, adapter: false, quantised },
                )
            }
        };
        let tb = tb || quantisation.is_some();
        let bias = bias.then(|| self.parameter(g, &format!("{name}.bias"), &[sizes.1], Initial::Zeros));
        Linear { weight, bias, tb, quantisation, adapter: self.adapter(g, name, sizes) }
    }
}
