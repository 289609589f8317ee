// first_position: the position of every row's first token is the step's.
fn first_position(row: u32) -> u32 {
    return step.position;
}
