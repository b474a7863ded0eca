//! A linear layer, its weights laid out once for the products of an encoder: see `kernels::cells`.

use crate::Error;
use crate::kernels::{EncoderKernels, Finish, Panels, Strided, padded, place};
use crate::memory::MappedVec;

/// `y = x · weightᵀ + bias`, and what the model does with it next.
pub(super) struct Linear {
    /// Cells of one row of `x`.
    inputs: usize,
    columns: usize,
    panels: MappedVec<u32>,
    /// One for each column, zeros behind them.
    bias: MappedVec<f32>,
}

impl Linear {
    /// From weights as they are stored, a row of inputs for each output, and one bias for each output. `weight` holds
    /// whole rows.
    pub(super) fn new(kernels: &EncoderKernels, weight: &[f32], bias: &[f32]) -> Result<Linear, Error> {
        let (numbers, columns) = (weight.len() / bias.len(), bias.len());
        let inputs = numbers / kernels.per_cell;
        let mut panels = MappedVec::zeroed(padded(columns) * inputs)?;
        let mut cells = vec![0; inputs];
        for (column, row) in weight.chunks_exact(numbers).enumerate() {
            kernels.pack(row, &mut cells);
            for (input, cell) in cells.iter().enumerate() {
                panels[place(column, input, columns, inputs)] = *cell;
            }
        }
        let mut padded_bias = MappedVec::zeroed(padded(columns))?;
        padded_bias[..columns].copy_from_slice(bias);
        Ok(Linear { inputs, columns, panels, bias: padded_bias })
    }

    /// The layer on `rows` rows of cells: cells again.
    pub(super) fn apply(&self, kernels: &EncoderKernels, x: &[u32], rows: usize, y: &mut [u32]) {
        self.product(kernels, x, rows, Finish::Bias { bias: &self.bias, y });
    }

    /// The same, and GELU.
    pub(super) fn apply_gelu(&self, kernels: &EncoderKernels, x: &[u32], rows: usize, y: &mut [u32]) {
        self.product(kernels, x, rows, Finish::Gelu { bias: &self.bias, y });
    }

    /// The layer on `rows` rows of cells, added to `y`.
    pub(super) fn add(&self, kernels: &EncoderKernels, x: &[u32], rows: usize, y: &mut [f32]) {
        self.product(kernels, x, rows, Finish::Add { bias: &self.bias, y });
    }

    fn product(&self, kernels: &EncoderKernels, x: &[u32], rows: usize, finish: Finish<'_>) {
        let x = Strided { data: x, stride: self.inputs, rows };
        kernels.product(x, Panels { cells: &self.panels, inputs: self.inputs, columns: self.columns }, finish);
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        self.panels.bytes() + self.bias.bytes()
    }
}
