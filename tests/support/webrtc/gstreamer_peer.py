"""A WebRTC endpoint of GStreamer, driven by JSON lines: H.264 of another implementation.

ICE is libnice's, DTLS OpenSSL's with an RSA certificate, the data channel usrsctp's, and the
encoder and decoder are OpenH264's. The system's Python runs this, since that has PyGObject.

    stdin:  {"start": {"pictures": path, "receives": bool, "control": bool}} {"answer": sdp}
            {"say": text}
    stdout: {"offer": sdp} {"state": s} {"opened": true} {"said": text} {"error": text}
            {"picture": bytes}, followed by so many bytes: I420
            {"missing": text}: what it would need to run

"pictures" is a file of I420 pictures of 640x360, sent 25 a second again and again.
"""

import json
import sys
import threading

WIDTH, HEIGHT, FPS = 640, 360, 25
PICTURE = WIDTH * HEIGHT * 3 // 2

writing = threading.Lock()


def tell(data=b"", **message):
    with writing:
        sys.stdout.buffer.write(json.dumps(message).encode() + b"\n" + data)
        sys.stdout.buffer.flush()


try:
    import gi

    for name in ("Gst", "GstSdp", "GstWebRTC"):
        gi.require_version(name, "1.0")
    gi.require_version("Nice", "0.1")
    from gi.repository import GLib, Gst, GstSdp, GstWebRTC, Nice
except (ImportError, ValueError) as exc:
    tell(missing=str(exc))
    sys.exit()

# Constrained baseline, level 3.1: what every WebRTC endpoint with H.264 takes (RFC 7742, 6.2).
RTP = (
    "application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96"
    ",packetization-mode=(string)1,profile-level-id=(string)42e01f"
)
SEND = (
    "appsrc name=camera is-live=true do-timestamp=true format=time max-buffers=2 block=false"
    f" caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={FPS}/1"
    " ! openh264enc usage-type=camera complexity=low rate-control=bitrate bitrate=2000000"
    f" gop-size={FPS} ! video/x-h264,profile=constrained-baseline"
    " ! rtph264pay config-interval=-1 aggregate-mode=zero-latency"
    f' ! capsfilter caps="{RTP}"'
)
RECEIVE = (
    "rtph264depay ! h264parse ! openh264dec ! videoconvert ! video/x-raw,format=I420"
    " ! appsink name=screen sync=false emit-signals=true max-buffers=2"
)
NEEDED = (
    "webrtcbin nicesrc dtlssrtpenc srtpenc rtpbin rtph264pay openh264enc openh264dec h264parse"
    " sctpenc videoconvert appsrc"
).split()


class Endpoint:
    def __init__(self):
        self.pipeline = self.peer = self.ice = self.channel = None
        self.offered = False

    def start(self, pictures=None, receives=False, control=False):
        self.pipeline = Gst.Pipeline()
        self.peer = Gst.ElementFactory.make("webrtcbin")
        self.peer.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
        self.pipeline.add(self.peer)
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", lambda _, message: tell(error=str(message.parse_error())))
        # libnice leaves the loopback out by itself, and some machines have no more.
        address = Nice.Address.new()
        address.set_from_string("127.0.0.1")
        # Kept: the bin's reference is a floating one, which Python takes over and would give up.
        self.ice = self.peer.get_property("ice-agent")
        self.ice.get_property("agent").add_local_address(address)
        self.peer.connect("notify::ice-gathering-state", self.gathered)
        self.peer.connect(
            "notify::connection-state",
            lambda *_: tell(state=self.peer.get_property("connection-state").value_nick),
        )
        self.peer.connect("pad-added", self.received)
        direction = GstWebRTC.WebRTCRTPTransceiverDirection
        if pictures:
            camera = Gst.parse_bin_from_description(SEND, True)
            self.pipeline.add(camera)
            camera.link(self.peer)
            if not receives:
                self.peer.emit("get-transceiver", 0).set_property("direction", direction.SENDONLY)
        else:
            self.peer.emit("add-transceiver", direction.RECVONLY, Gst.Caps.from_string(RTP))
        self.pipeline.set_state(Gst.State.PLAYING)
        if control:  # webrtcbin makes one only while it runs
            self.channel = self.peer.emit("create-data-channel", "control", None)
            self.channel.connect("on-open", lambda _: tell(opened=True))
            self.channel.connect("on-message-string", lambda _, text: tell(said=text))
        if pictures:
            self.film(pictures)
        promise = Gst.Promise.new_with_change_func(self.made)
        self.peer.emit("create-offer", None, promise)

    def film(self, path):
        with open(path, "rb") as file:
            data = file.read()
        count, numbers = len(data) // PICTURE, iter(range(1 << 40))
        camera = self.pipeline.get_by_name("camera")

        def push():
            begin = next(numbers) % count * PICTURE
            picture = Gst.Buffer.new_wrapped(data[begin : begin + PICTURE])
            return camera.emit("push-buffer", picture) == Gst.FlowReturn.OK

        GLib.timeout_add(1000 // FPS, push)

    def made(self, promise):
        reply = promise.get_reply()  # the offer is this one's and goes with it
        self.peer.emit("set-local-description", reply.get_value("offer"), None)

    def gathered(self, *_):
        state = self.peer.get_property("ice-gathering-state")
        if state == GstWebRTC.WebRTCICEGatheringState.COMPLETE and not self.offered:
            self.offered = True
            tell(offer=self.peer.get_property("local-description").sdp.as_text())

    def answer(self, sdp):
        _, parsed = GstSdp.SDPMessage.new_from_text(sdp)
        kind = GstWebRTC.WebRTCSDPType.ANSWER
        answer = GstWebRTC.WebRTCSessionDescription.new(kind, parsed)
        self.peer.emit("set-remote-description", answer, None)

    def received(self, _, pad):
        if pad.get_direction() != Gst.PadDirection.SRC:
            return
        part = Gst.parse_bin_from_description(RECEIVE, True)
        part.get_by_name("screen").connect("new-sample", self.show)
        self.pipeline.add(part)
        part.sync_state_with_parent()
        pad.link(part.get_static_pad("sink"))

    def show(self, screen):
        buffer = screen.emit("pull-sample").get_buffer()
        data = buffer.extract_dup(0, buffer.get_size())
        tell(data, picture=len(data))
        return Gst.FlowReturn.OK


def obey(endpoint, message):
    try:
        if "start" in message:
            endpoint.start(**message["start"])
        elif "answer" in message:
            endpoint.answer(message["answer"])
        elif "say" in message:
            endpoint.channel.emit("send-string", message["say"])
    except Exception as exc:
        tell(error=repr(exc))


def listen(endpoint, loop):
    for line in sys.stdin:
        message = json.loads(line)
        GLib.idle_add(obey, endpoint, message)
    GLib.idle_add(loop.quit)


def main():
    Gst.init(None)
    lacking = [name for name in NEEDED if Gst.ElementFactory.find(name) is None]
    if lacking:
        tell(missing=f"GStreamer without {', '.join(lacking)}")
        return
    loop = GLib.MainLoop()
    threading.Thread(target=listen, args=(Endpoint(), loop), daemon=True).start()
    loop.run()


main()
