//! Shapes and element types.

use half::f16;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dtype {
    #[default]
    F32,
    F16,
    U32,
}

impl Dtype {
    pub fn size_bytes(self) -> u64 {
        match self {
            Dtype::F16 => 2,
            Dtype::F32 | Dtype::U32 => 4,
        }
    }

    /// The suffix of a class of work in this type: nothing for f32.
    pub fn suffix(self) -> &'static str {
        match self {
            Dtype::F16 => " f16",
            Dtype::F32 | Dtype::U32 => "",
        }
    }

    /// The nearest number that a tensor of this type holds; infinite where that is beyond its largest.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Dtype::F16 => f16::from_f32(x).to_f32(),
            Dtype::F32 | Dtype::U32 => x,
        }
    }

    /// The bytes of a tensor with these values, as a device stores it. u32 travel as bits.
    pub fn to_bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Dtype::F16 => {
                let mut halves: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
                halves.resize(halves.len().next_multiple_of(2), f16::ZERO); // whole words
                halves.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            Dtype::F32 | Dtype::U32 => bytemuck::cast_slice(values).to_vec(),
        }
    }

    /// The first `len` values in the bytes of a tensor.
    pub fn values(self, bytes: &[u8], len: usize) -> Vec<f32> {
        match self {
            Dtype::F16 => bytes.chunks_exact(2).take(len).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::F32 | Dtype::U32 => bytemuck::pod_collect_to_vec(&bytes[..4 * len]),
        }
    }
}

/// Dimensions, row-major, outermost first, and the element type.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    pub dims: Vec<usize>,
    pub dtype: Dtype,
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        write!(f, "({}) {:?}", dims.join(", "), self.dtype)
    }
}

impl Shape {
    pub fn f32(dims: &[usize]) -> Self {
        Shape { dims: dims.to_vec(), dtype: Dtype::F32 }
    }

    pub fn u32(dims: &[usize]) -> Self {
        Shape { dims: dims.to_vec(), dtype: Dtype::U32 }
    }

    /// This shape with another element type.
    pub fn with_dtype(&self, dtype: Dtype) -> Self {
        Shape { dims: self.dims.clone(), dtype }
    }

    /// Number of elements; the largest number there is where it is beyond that. Nothing with so many is planned.
    pub fn len(&self) -> usize {
        product(&self.dims)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last dimension: the length of a row.
    pub fn columns(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// All dimensions but the last, multiplied: a (B, T, C) tensor has B*T rows of C.
    pub fn rows(&self) -> usize {
        product(&self.dims[..self.dims.len().saturating_sub(1)])
    }

    /// This shape with another last dimension.
    pub fn with_columns(&self, columns: usize) -> Self {
        let mut dims = self.dims.clone();
        *dims.last_mut().expect("a shape with at least one dimension") = columns;
        Shape { dims, dtype: self.dtype }
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        (self.columns() as u64).saturating_mul(self.dtype.size_bytes())
    }

    /// Bytes of the tensor, rounded up to whole 4-byte words.
    pub fn size_bytes(&self) -> u64 {
        let bytes = (self.len() as u64).saturating_mul(self.dtype.size_bytes());
        bytes.checked_next_multiple_of(4).unwrap_or(u64::MAX)
    }
}

fn product(dims: &[usize]) -> usize {
    dims.iter().fold(1, |product, n| product.saturating_mul(*n))
}
