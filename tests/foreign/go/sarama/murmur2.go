package main

import (
	"encoding/binary"
	"hash"
)

// murmur2 is the hash of Kafka's Java client as a hash.Hash32.
type murmur2 struct{ key []byte }

func newMurmur2() hash.Hash32 { return &murmur2{} }

func (m *murmur2) Write(part []byte) (int, error) {
	m.key = append(m.key, part...)
	return len(part), nil
}
func (m *murmur2) Reset()         { m.key = m.key[:0] }
func (m *murmur2) Size() int      { return 4 }
func (m *murmur2) BlockSize() int { return 4 }
func (m *murmur2) Sum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, m.Sum32())
}

func (m *murmur2) Sum32() uint32 {
	const factor = 0x5bd1e995
	rest := m.key
	hashed := uint32(0x9747b28c) ^ uint32(len(rest))
	for ; len(rest) >= 4; rest = rest[4:] {
		word := binary.LittleEndian.Uint32(rest) * factor
		word = (word ^ word>>24) * factor
		hashed = hashed*factor ^ word
	}
	if len(rest) > 0 {
		var last [4]byte
		copy(last[:], rest)
		hashed = (hashed ^ binary.LittleEndian.Uint32(last[:])) * factor
	}
	hashed = (hashed ^ hashed>>13) * factor
	return hashed ^ hashed>>15
}
