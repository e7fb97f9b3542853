// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// maxInflatedAnswer bounds what decompression makes of all messages of one answer, one message being bound by MaxFrameBytes: 16 MiB of
// zeros packed by somebody who means harm would become 16 GiB.
const maxInflatedAnswer = 256 << 20

// Compress packs body with zlib, which every RocketMQ since 4.0 unpacks, and says which bits of the sysFlag tell so. A body that does not get
// smaller comes back as it is, with no bits.
func Compress(body []byte) ([]byte, int) {
	w := deflaters.Get().(*zlib.Writer)
	defer deflaters.Put(w)
	var packed bytes.Buffer
	packed.Grow(len(body) / 2)
	w.Reset(&packed)
	// A bytes.Buffer takes everything; there is no other source of an error.
	_, err := w.Write(body)
	if err == nil {
		err = w.Close()
	}
	if err != nil || packed.Len() >= len(body) {
		return body, 0
	}
	return packed.Bytes(), sysCompressed | sysCompressionZlb
}

// deflaters keeps writers: one has tables of 800 KiB.
var deflaters = sync.Pool{New: func() any { return zlib.NewWriter(io.Discard) }}

// decompress unpacks raw as sysFlag says; more than limit bytes are an error.
func decompress(raw []byte, sysFlag, limit int) ([]byte, error) {
	switch sysFlag & sysCompression {
	case 0, sysCompressionZlb: // 0: producers before 5.0 knew nothing else
		r, err := zlib.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		return readBounded(r, limit)
	case sysCompressionLZ4:
		return readBounded(lz4.NewReader(bytes.NewReader(raw)), limit)
	case sysCompressionZst:
		d, err := zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxFrameBytes))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return readBounded(d, limit)
	default:
		return nil, fmt.Errorf("compression type %d is not known", sysFlag&sysCompression>>8)
	}
}

func readBounded(r io.Reader, limit int) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(body) > limit {
		return nil, fmt.Errorf("it unpacks to more than %d bytes", limit)
	}
	return body, nil
}
