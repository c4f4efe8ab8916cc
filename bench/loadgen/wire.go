package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Messages of proto/fleet/arms/v1, written and read by hand: generated code would cost the client more than the server spends.

func tag(buffer []byte, field, wireType uint64) []byte {
	return binary.AppendUvarint(buffer, field<<3|wireType)
}

func bytesField(buffer []byte, field uint64, value []byte) []byte {
	buffer = binary.AppendUvarint(tag(buffer, field, 2), uint64(len(value)))
	return append(buffer, value...)
}

func armName(arm int) string { return fmt.Sprintf("arm-%06d", arm) }

// sample is a JointSample of `axes` axes, read now.
func sample(arms, axes int) []byte {
	buffer := bytesField(make([]byte, 0, 32+16*axes), 1, []byte(armName(rand.IntN(arms))))
	buffer = binary.AppendUvarint(tag(buffer, 2, 0), uint64(time.Now().UnixMicro()))
	for axis := range axes {
		position := tag(make([]byte, 0, 16), 1, 0)
		position = binary.AppendUvarint(position, uint64(axis))
		position = tag(position, 2, 1)
		position = binary.LittleEndian.AppendUint64(position, math.Float64bits(rand.Float64()*6-3))
		buffer = bytesField(buffer, 3, position)
	}
	return buffer
}

func reportRequest(arms, axes int) []byte {
	return bytesField(nil, 1, sample(arms, axes))
}

func getRequest(arms int) []byte {
	return bytesField(nil, 1, []byte(armName(rand.IntN(arms))))
}

func streamRequest(sequence uint64, samples [][]byte) []byte {
	buffer := binary.AppendUvarint(tag(nil, 1, 0), sequence)
	for _, one := range samples {
		buffer = bytesField(buffer, 2, one)
	}
	return buffer
}

// acknowledgement reads a StreamJointPositionsResponse: the sequence, and how many samples were refused.
func acknowledgement(buffer []byte) (sequence uint64, refused int, err error) {
	for len(buffer) > 0 {
		key, size := binary.Uvarint(buffer)
		if size <= 0 {
			return 0, 0, fmt.Errorf("not a message")
		}
		buffer = buffer[size:]
		value, size := binary.Uvarint(buffer)
		if size <= 0 {
			return 0, 0, fmt.Errorf("not a message")
		}
		buffer = buffer[size:]
		switch key {
		case 1 << 3:
			sequence = value
		case 2<<3 | 2, 3<<3 | 2:
			if key>>3 == 3 {
				refused++
			}
			if value > uint64(len(buffer)) {
				return 0, 0, fmt.Errorf("not a message")
			}
			buffer = buffer[value:]
		default:
			return 0, 0, fmt.Errorf("unknown field %d", key>>3)
		}
	}
	return sequence, refused, nil
}
