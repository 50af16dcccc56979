#include "collective/nccl/peers.h"

#include <algorithm>

namespace tessera::core {

namespace {

using gpu::address_of;

// Where a member wants what is sent.
struct Place {
    void *result;
    int64_t bytes;
};

} // namespace

PeerCopies::PeerCopies(Communicator &host, DeviceId device)
    : host_(host), device_(device), driver_(gpu::gpu_backend(device).driver()) {}

bool PeerCopies::reach(const std::vector<std::string> &axes, int64_t members, int64_t member) {
    const std::string what = "the first meeting of GPUs";
    const auto count = static_cast<size_t>(members), own = static_cast<size_t>(member);
    gpu::GpuBackend &here = gpu::gpu_backend(device_);
    const Peer self{device_.index, here.create_plain_event(device_.index), here.create_plain_event(device_.index)};
    std::vector<const Peer *> all(count);
    all[own] = &self;
    if (!host_.tell(axes, what, all.data(), sizeof(const Peer *)))
        return false;
    std::vector<Peer> peers; // copied while all are here
    for (const Peer *peer : all)
        peers.push_back(*peer);
    host_.tell(axes, what, nullptr, 0);
    std::vector<char> reached(count, 1);
    for (size_t m = 0; m < count; ++m)
        if (m != own && (peers[m].index == device_.index || !here.open_to(device_.index, peers[m].index)))
            reached[own] = 0;
    host_.tell(axes, what, reached.data(), 1);
    groups_[axes] = std::move(peers);
    return std::count(reached.begin(), reached.end(), 1) == members;
}

void PeerCopies::put(const Collective &collective, int64_t member, const std::vector<Piece> &pieces,
                     const TensorView &operand, const TensorView &result, gpu::Handle stream) {
    const gpu::Functions &call = driver_.call();
    const std::vector<Peer> &peers = groups_.at(collective.axes);
    const auto own = static_cast<size_t>(member);
    std::vector<Place> places(peers.size());
    places[own] = {result.data, result.size() * static_cast<int64_t>(item_size(result.dtype))};
    driver_.check(call.event_record(peers[own].ready->handle(), stream), "an exchange");
    host_.tell(collective.axes, collective.name, places.data(), sizeof(Place));
    for (size_t i = 0; i < pieces.size(); ++i) { // to the next member first, so that not all send to the same one
        const Piece &piece = pieces[(i + own + 1) % pieces.size()];
        const auto m = static_cast<size_t>(piece.member);
        const int64_t room = places[m].bytes - piece.to;
        if (piece.whole ? piece.bytes != room : piece.bytes > room)
            fail(Code::Shape, "[%s] %lld bytes go to a device that has room for %lld; the devices' tensors differ in size",
                 collective.name.c_str(), static_cast<long long>(piece.bytes), static_cast<long long>(room));
        if (m != own)
            driver_.check(call.stream_wait_event(stream, peers[m].ready->handle(), 0), "an exchange");
        send(piece, operand.data, places[m].result, peers[m].index, stream);
    }
    driver_.check(call.event_record(peers[own].done->handle(), stream), "an exchange");
    host_.tell(collective.axes, collective.name, nullptr, 0);
    for (size_t m = 0; m < peers.size(); ++m)
        if (m != own)
            driver_.check(call.stream_wait_event(stream, peers[m].done->handle(), 0), "an exchange");
}

void PeerCopies::send(const Piece &piece, const void *operand, void *result, int32_t index, gpu::Handle stream) {
    if (!piece.bytes)
        return;
    const gpu::Address from = address_of(operand) + static_cast<gpu::Address>(piece.from);
    const gpu::Address to = address_of(result) + static_cast<gpu::Address>(piece.to);
    const auto bytes = static_cast<size_t>(piece.bytes);
    driver_.check(index == device_.index ? driver_.call().copy_within(to, from, bytes, stream)
                                         : driver_.copy_peer(to, index, from, device_.index, bytes, stream),
                  "a part of an exchange");
}

} // namespace tessera::core
