//! Ends of a block that are told of without an error: plain values.

use crate::fence::failure::Failure;
use crate::fence::text::Text;
use crate::report::pack_sqlstate;

const SYSTEM_ERROR: i32 = pack_sqlstate(b"58000");
const QUERY_CANCELED: i32 = pack_sqlstate(b"57014");

impl Failure {
    /// An end that has been forgotten; it may have been a bad one, and so counts as such.
    pub fn forgotten() -> Self {
        Self {
            sqlstate: SYSTEM_ERROR,
            message: Text::new("how the backup block ended is not known any more"),
            detail: Text::new("More than one other block has been begun since."),
            ..Self::NONE
        }
    }

    /// The end of a block whose requestor left before it was told of it: nobody was.
    pub fn given_up() -> Self {
        Self {
            sqlstate: QUERY_CANCELED,
            message: Text::new(
                "the caller of the backup block had given it up before it heard that it was active",
            ),
            ..Self::NONE
        }
    }
}
