package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
)

const (
	reportMethod = "/fleet.arms.v1.ArmCommandService/ReportJointPositions"
	streamMethod = "/fleet.arms.v1.ArmCommandService/StreamJointPositions"
	getMethod    = "/fleet.arms.v1.ArmQueryService/GetArmPosition"
)

// raw passes bytes through: requests are made by hand, answers are looked at as little as possible.
type raw struct{}

func (raw) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }
func (raw) Name() string                      { return "proto" }
func (raw) Unmarshal(data []byte, value any) error {
	into := value.(*[]byte)
	*into = append((*into)[:0], data...)
	return nil
}

// unary calls again and again until the end. With a rate it calls at due times, and counts the latency from there:
// a server that stalls is then charged for every call it made wait.
func (l *load) unary(ctx context.Context, conn *grpc.ClientConn, caller int, into *latencies) error {
	var answer []byte
	pause := time.Duration(0)
	if l.rate > 0 {
		pause = time.Duration(float64(l.callers) / l.rate * float64(time.Second))
	}
	due := time.Now().Add(pause * time.Duration(caller) / time.Duration(l.callers))
	for time.Now().Before(l.end) {
		began := time.Now()
		if pause > 0 {
			began = due
			time.Sleep(time.Until(due))
			if late := time.Since(due); late < time.Millisecond {
				began = time.Now() // our own sleep was a little long
			}
			due = due.Add(pause)
		}
		method, request := getMethod, []byte(nil)
		if l.mode == "report" {
			method, request = reportMethod, reportRequest(l.arms, l.axes)
		} else {
			request = getRequest(l.arms)
		}
		if err := conn.Invoke(ctx, method, &request, &answer); err != nil {
			return err
		}
		into.add(began, 1)
	}
	return nil
}

// stream sends batches while less than `window` of them are unacknowledged.
func (l *load) stream(ctx context.Context, conn *grpc.ClientConn, into *latencies) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, streamMethod)
	if err != nil {
		return err
	}
	sent := make(chan time.Time, l.window)
	go l.send(ctx, stream, sent)
	var answer []byte
	last := uint64(0)
	for {
		if err := stream.RecvMsg(&answer); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		sequence, refused, err := acknowledgement(answer)
		if err != nil || refused > 0 {
			return fmt.Errorf("%d samples refused, error %v", refused, err)
		}
		for ; last < sequence; last++ {
			into.add(<-sent, l.batch)
		}
	}
}

func (l *load) send(ctx context.Context, stream grpc.ClientStream, sent chan<- time.Time) {
	pool := make([][]byte, 0, 8*l.batch)
	for range cap(pool) {
		pool = append(pool, sample(l.arms, l.axes))
	}
	for sequence := uint64(1); time.Now().Before(l.end); sequence++ {
		from := int(sequence) % 8 * l.batch // what was sampled a few seconds ago is as good
		request := streamRequest(sequence, pool[from:from+l.batch])
		select {
		case sent <- time.Now():
		case <-ctx.Done():
			return
		}
		if stream.SendMsg(&request) != nil {
			return
		}
	}
	_ = stream.CloseSend()
}
