//! Zstandard (RFC 8878), unpacked as it is read: the frames of a file one after the other.

use std::io::{self, BufRead, Error, ErrorKind, Read};

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Magic numbers of frames that hold no data: this one and the fifteen after it.
const SKIPPABLE: u32 = 0x184D_2A50;
/// Memory that a frame may ask for, as `zstd --long=29` writes it.
const MOST_WINDOW_BYTES: u64 = 1 << 29;

/// Reads all frames of a file as one.
pub(super) struct Frames<R: BufRead> {
    input: R,
    decoder: FrameDecoder,
    /// Between frames.
    ended: bool,
}

impl<R: BufRead> Frames<R> {
    pub fn new(input: R) -> Frames<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MOST_WINDOW_BYTES);
        Frames { input, decoder, ended: true }
    }

    /// Begins the next frame that holds data; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            let magic: [u8; 4] = self.word()?;
            if u32::from_le_bytes(magic) & !15 != SKIPPABLE {
                let frame = io::Cursor::new(magic).chain(&mut self.input);
                self.decoder.reset(frame).map_err(Error::other)?;
                self.ended = false;
                return Ok(true);
            }
            let length = u64::from(u32::from_le_bytes(self.word()?));
            if io::copy(&mut self.input.by_ref().take(length), &mut io::sink())? < length {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the file is cut off"));
            }
        }
        Ok(false)
    }

    fn word(&mut self) -> io::Result<[u8; 4]> {
        let mut word = [0; 4];
        self.input.read_exact(&mut word)?;
        Ok(word)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.ended && !self.next_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.input, one).map_err(Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let (stored, computed) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if stored.is_some() && stored != computed {
                return Err(Error::new(ErrorKind::InvalidData, "a checksum does not match: the file is damaged"));
            }
            self.ended = true;
        }
    }
}
