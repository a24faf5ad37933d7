//! What frames of the peer do that concern the connection and its windows rather than a message: SETTINGS, PING, GOAWAY, WINDOW_UPDATE.

use super::engine::{Engine, Key, LAST, Leaving, Role};
use super::fault::{By, Fault};
use super::frame::{self, Code, Head, MAX_31, MAX_PAYLOAD, be32, flag, setting};
use super::receive::{Broken, broken};

impl Engine {
    pub(super) fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        if head.stream != 0 {
            return broken("SETTINGS on a stream");
        }
        if head.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(Broken(Code::FRAME_SIZE_ERROR, "SETTINGS that acknowledge and say something"));
            }
            self.settle_window();
            return Ok(self.abuse.noise()?);
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Broken(Code::FRAME_SIZE_ERROR, "SETTINGS of a broken size"));
        }
        self.abuse.answer()?;
        for entry in payload.chunks_exact(6) {
            self.setting(u16::from_be_bytes([entry[0], entry[1]]), be32(&entry[2..]))?;
        }
        self.remote.known = true;
        frame::settings_ack(self.out.bytes());
        self.slots.notify_waiters();
        Ok(())
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), Broken> {
        match id {
            setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
            setting::ENABLE_PUSH if value > 1 => return broken("SETTINGS_ENABLE_PUSH is neither 0 nor 1"),
            setting::MAX_CONCURRENT_STREAMS => self.remote.max_streams = value,
            setting::INITIAL_WINDOW_SIZE => self.initial_window(value)?,
            setting::MAX_FRAME_SIZE => {
                if !(MAX_PAYLOAD as u32..1 << 24).contains(&value) {
                    return broken("SETTINGS_MAX_FRAME_SIZE is out of its range");
                }
                self.remote.max_frame = value as usize;
            }
            setting::ENABLE_CONNECT_PROTOCOL => self.remote.connect_protocol = value == 1,
            // RFC 9113 §6.5.2: unknown settings MUST be ignored; a limit on header lists is advisory.
            _ => {}
        }
        Ok(())
    }

    /// RFC 9113 §6.9.2: a change applies to all streams, whose windows may become negative.
    fn initial_window(&mut self, value: u32) -> Result<(), Broken> {
        if value > MAX_31 {
            return Err(Broken(Code::FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large"));
        }
        let change = i64::from(value) - i64::from(self.remote.initial_window);
        self.remote.initial_window = value;
        for stream in self.streams.iter_mut().flatten() {
            stream.send_window += change;
            if stream.send_window > i64::from(MAX_31) {
                return Err(Broken(Code::FLOW_CONTROL_ERROR, "SETTINGS make a window too large"));
            }
            if stream.send_window > 0 {
                stream.wake_writer();
            }
        }
        Ok(())
    }

    /// Our SETTINGS are acknowledged: a window below the protocol's applies from now on.
    fn settle_window(&mut self) {
        if !std::mem::replace(&mut self.settled, true) {
            let change = 65_535 - i64::from(self.local.stream_window);
            for stream in self.streams.iter_mut().flatten() {
                stream.recv_window -= change;
            }
        }
    }

    pub(super) fn ping_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(Broken(Code::FRAME_SIZE_ERROR, "PING of another size"));
        };
        if head.stream != 0 {
            return broken("PING on a stream");
        }
        if !head.has(flag::ACK) {
            self.abuse.answer()?;
            frame::ping(self.out.bytes(), flag::ACK, payload);
        } else if payload == LAST && self.leaving == Leaving::Announced {
            // The peer has seen the first GOAWAY: no stream comes after those that are here.
            frame::goaway(self.out.bytes(), self.last_seen, Code::NO_ERROR);
            self.leaving = Leaving::Told(self.last_seen);
        }
        Ok(())
    }

    pub(super) fn goaway(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        if head.stream != 0 {
            return broken("GOAWAY on a stream");
        }
        let Some((last, code)) = payload.split_at_checked(4).filter(|(_, code)| code.len() >= 4) else {
            return Err(Broken(Code::FRAME_SIZE_ERROR, "GOAWAY too short"));
        };
        self.abuse.noise()?;
        self.left = true;
        self.slots.notify_waiters();
        if self.role == Role::Server {
            return Ok(());
        }
        let (last, fault) = (be32(last) & MAX_31, Fault::GoAway(Code(be32(code)), By::Peer));
        for at in 0..self.streams.len() {
            let Some(stream) = self.streams.get_mut(at).and_then(Option::as_deref_mut) else { continue };
            if stream.id > last && !stream.is_closed() {
                stream.fault = Some(fault);
                stream.wake();
                let key = Key { slot: at as u32, id: stream.id };
                self.settle(key);
            }
        }
        Ok(())
    }

    pub(super) fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Broken> {
        if payload.len() != 4 {
            return Err(Broken(Code::FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size"));
        }
        let increment = i64::from(be32(payload) & MAX_31);
        self.abuse.noise()?;
        if head.stream == 0 {
            if increment == 0 {
                return broken("WINDOW_UPDATE of nothing");
            }
            self.send_window += increment;
            if self.send_window > i64::from(MAX_31) {
                return Err(Broken(Code::FLOW_CONTROL_ERROR, "the connection's window is too large"));
            }
            self.wake_room();
            return Ok(());
        }
        if self.is_idle(head.stream) {
            return broken("WINDOW_UPDATE on a stream that is not open");
        }
        let Some(key) = self.find(head.stream) else { return Ok(()) };
        let Some(stream) = self.stream(key).filter(|stream| !stream.is_closed()) else { return Ok(()) };
        stream.send_window += increment;
        if increment == 0 {
            self.reset(key, Code::PROTOCOL_ERROR);
        } else if stream.send_window > i64::from(MAX_31) {
            self.reset(key, Code::FLOW_CONTROL_ERROR);
        } else if stream.send_window > 0 {
            stream.wake_writer();
        }
        Ok(())
    }
}
