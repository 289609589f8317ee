//! Shapes and element types.

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
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

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
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
        self.dims[..self.dims.len().saturating_sub(1)].iter().product()
    }

    /// This shape with another last dimension.
    pub fn with_columns(&self, columns: usize) -> Self {
        let mut dims = self.dims.clone();
        *dims.last_mut().expect("a shape with at least one dimension") = columns;
        Shape { dims, dtype: self.dtype }
    }

    /// Bytes of the tensor, rounded up to whole 4-byte words.
    pub fn size_bytes(&self) -> u64 {
        (self.len() as u64 * self.dtype.size_bytes()).next_multiple_of(4)
    }
}
