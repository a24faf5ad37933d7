//! TCP of the upstream: exchanges with counted bytes, and an echo.

use super::Count;
use crate::failure::Failure;
use crate::measure::add;
use crate::socket::{FILL, discard, send_fill, send_shared};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// What ends an exchange.
const DONE: u8 = b'k';
/// Downloads up to this leave in one write with the byte that ends the exchange.
const TOGETHER: u64 = 64 * 1024;

/// The sixteen bytes that begin an exchange, `None` when the client is done.
async fn asked<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<(u64, u64)>, Failure> {
    let mut header = [0; 16];
    let mut filled = 0;
    while filled < header.len() {
        match stream.read(&mut header[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(Failure::Closed),
            count => filled += count,
        }
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = header;
    Ok(Some((u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]))))
}

/// Exchanges on a plain socket; what the client sends is never copied.
pub(super) async fn exchanges(mut stream: TcpStream, count: &Count) -> Result<(), Failure> {
    while let Some((down, up)) = asked(&mut stream).await? {
        if up == 0 && down < TOGETHER {
            send_together(&mut stream, down).await?;
        } else {
            tokio::try_join!(send_shared(&stream, down), async { Ok(discard(&stream, up).await?) })?;
            stream.write_all(&[DONE]).await?;
        }
        add(&count.requests, 1);
        add(&count.bytes, down.saturating_add(up));
    }
    Ok(())
}

/// The same on any stream.
pub(super) async fn any_exchanges<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    count: &Count,
) -> Result<(), Failure> {
    while let Some((down, up)) = asked(&mut stream).await? {
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let read = async {
            let (mut left, mut scratch) = (up, vec![0; 64 * 1024]);
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(scratch.len());
                match reader.read(&mut scratch[..most]).await? {
                    0 => return Err(Failure::Closed),
                    count => left -= count as u64,
                }
            }
            Ok(())
        };
        tokio::try_join!(async { Ok(send_fill(&mut writer, down).await?) }, read)?;
        stream.write_all(&[DONE]).await?;
        stream.flush().await?;
        add(&count.bytes, down.saturating_add(up));
    }
    stream.shutdown().await?;
    Ok(())
}

async fn send_together(stream: &mut TcpStream, down: u64) -> Result<(), Failure> {
    let Ok(length) = usize::try_from(down) else { return Err(Failure::Length) };
    if length == 0 {
        return Ok(stream.write_all(&[DONE]).await?);
    }
    let mut all = Vec::with_capacity(length + 1);
    all.extend_from_slice(&FILL[..length]);
    all.push(DONE);
    Ok(stream.write_all(&all).await?)
}

/// Every byte back.
pub(super) async fn echo(mut stream: TcpStream, count: &Count) -> Result<(), Failure> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(stream.shutdown().await?);
        }
        stream.write_all(&buffer[..read]).await?;
        add(&count.bytes, 2 * read as u64);
    }
}
