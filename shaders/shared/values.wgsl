// The type in which a kernel computes: one number, or four elements side by side.
alias VALUES = f32;
