package conformance

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// Collects returns the first count numbers signalled to it; the query "sum" adds up those it has.
func Collects(ctx workflow.Context, count int) ([]int, error) {
	var values []int
	err := workflow.SetQueryHandler(ctx, "sum", func() (int, error) {
		sum := 0
		for _, value := range values {
			sum += value
		}
		return sum, nil
	})
	if err != nil {
		return nil, err
	}
	err = workflow.SetQueryHandler(ctx, "fails", func() (int, error) { return 0, errors.New("no answer") })
	if err != nil {
		return nil, err
	}
	signals := workflow.GetSignalChannel(ctx, "add")
	for len(values) < count {
		var value int
		signals.Receive(ctx, &value)
		values = append(values, value)
	}
	return values, nil
}

func numbers(count int) []int {
	values := make([]int, count)
	for i := range values {
		values[i] = i
	}
	return values
}

func TestSignalsArriveInOrder(t *testing.T) {
	s := begin(t, []any{Collects})
	run := s.start(Collects, 100)
	for i := range 100 {
		s.must(everlog.SignalWorkflow(s.ctx, run.GetID(), "", "add", i))
	}
	require.Equal(t, numbers(100), result[[]int](s, run))
	s.verified(run, Collects)
}

func TestConcurrentSignalsArriveOnceEach(t *testing.T) {
	s := begin(t, []any{Collects})
	run := s.start(Collects, 100)
	var signalling sync.WaitGroup
	for i := range 100 {
		signalling.Go(func() {
			if err := everlog.SignalWorkflow(s.ctx, run.GetID(), "", "add", i); err != nil {
				t.Error(err)
			}
		})
	}
	signalling.Wait()
	require.ElementsMatch(t, numbers(100), result[[]int](s, run))
	s.verified(run, Collects)
}

func TestSignalWithStart(t *testing.T) {
	s := begin(t, []any{Collects})
	options := client.StartWorkflowOptions{ID: unique("go"), TaskQueue: s.queue}
	first, err := everlog.SignalWithStartWorkflow(s.ctx, options.ID, "add", 1, options, Collects, 2)
	s.must(err)
	second, err := everlog.SignalWithStartWorkflow(s.ctx, options.ID, "add", 2, options, Collects, 2)
	s.must(err)
	require.Equal(t, first.GetRunID(), second.GetRunID())
	require.Equal(t, []int{1, 2}, result[[]int](s, first))
	require.Equal(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, s.verified(first, Collects)[1].EventType)
}

func TestQueries(t *testing.T) {
	s := begin(t, []any{Collects})
	run := s.start(Collects, 3)
	sum := func() int {
		answer, err := everlog.QueryWorkflow(s.ctx, run.GetID(), "", "sum")
		s.must(err)
		var value int
		s.must(answer.Get(&value))
		return value
	}
	for i := 1; i <= 3; i++ {
		require.Equal(t, i-1, sum())
		s.must(everlog.SignalWorkflow(s.ctx, run.GetID(), "", "add", 1))
	}
	result[[]int](s, run)
	require.Equal(t, 3, sum(), "a closed workflow answers too")

	_, err := everlog.QueryWorkflow(s.ctx, run.GetID(), "", "fails")
	var failed *serviceerror.QueryFailed
	require.ErrorAs(t, err, &failed)
	require.Contains(t, failed.Message, "no answer")
	s.verified(run, Collects)
}

// Sleeps fires timers of which it cancels one.
func Sleeps(ctx workflow.Context) (string, error) {
	cancellable, cancel := workflow.WithCancel(ctx)
	long := workflow.NewTimer(cancellable, time.Hour)
	if err := workflow.Sleep(ctx, 200*time.Millisecond); err != nil {
		return "", err
	}
	cancel()
	if err := long.Get(ctx, nil); !temporal.IsCanceledError(err) {
		return "", fmt.Errorf("the long timer ended with %w", err)
	}
	return "awake", workflow.Sleep(ctx, 100*time.Millisecond)
}

func TestTimers(t *testing.T) {
	s := begin(t, []any{Sleeps})
	run := s.start(Sleeps)
	require.Equal(t, "awake", result[string](s, run))
	history := s.verified(run, Sleeps)
	require.Len(t, ofType(history, enumspb.EVENT_TYPE_TIMER_STARTED), 3)
	require.Len(t, ofType(history, enumspb.EVENT_TYPE_TIMER_CANCELED), 1)
	for _, fired := range ofType(history, enumspb.EVENT_TYPE_TIMER_FIRED) {
		started := history[fired.GetTimerFiredEventAttributes().StartedEventId-1]
		due := started.EventTime.AsTime().Add(started.GetTimerStartedEventAttributes().StartToFireTimeout.AsDuration())
		require.False(t, fired.EventTime.AsTime().Before(due), "a timer fired early")
	}
}

// CountsDown continues as new until nothing is left.
func CountsDown(ctx workflow.Context, left int) (string, error) {
	if left > 0 {
		return "", workflow.NewContinueAsNewError(ctx, CountsDown, left-1)
	}
	return workflow.GetInfo(ctx).FirstRunID, nil
}

func TestContinueAsNew(t *testing.T) {
	s := begin(t, []any{CountsDown})
	run := s.start(CountsDown, 2)
	first := run.GetRunID()
	require.Equal(t, first, result[string](s, run))
	require.NotEqual(t, first, run.GetRunID(), "the result is that of the last run")
	s.verified(run, CountsDown)
	history := s.verified(everlogRun{run, first}, CountsDown)
	require.Equal(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW, history[len(history)-1].EventType)
}

// everlogRun is another run of the same workflow id.
type everlogRun struct {
	client.WorkflowRun
	runID string
}

func (r everlogRun) GetRunID() string { return r.runID }

// WaitsForActivity ends when its activity does, which is when it is cancelled.
func WaitsForActivity(ctx workflow.Context) error {
	activityContext := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 15 * time.Second,
		HeartbeatTimeout:    5 * time.Second,
		WaitForCancellation: true,
	})
	err := workflow.ExecuteActivity(activityContext, BeatsUntilCancelled).Get(ctx, nil)
	if temporal.IsCanceledError(err) {
		// Cleaning up needs a context that the cancellation does not reach.
		cleanUp, _ := workflow.NewDisconnectedContext(ctx)
		if sleepError := workflow.Sleep(cleanUp, 50*time.Millisecond); sleepError != nil {
			return sleepError
		}
	}
	return err
}

func TestCancellationReachesTheActivity(t *testing.T) {
	s := begin(t, []any{WaitsForActivity}, BeatsUntilCancelled)
	run := s.start(WaitsForActivity)
	s.eventually(func() bool {
		description, err := everlog.DescribeWorkflowExecution(s.ctx, run.GetID(), "")
		s.must(err)
		pending := description.PendingActivities
		return len(pending) == 1 && pending[0].State == enumspb.PENDING_ACTIVITY_STATE_STARTED
	}, "the activity is started")
	s.must(everlog.CancelWorkflow(s.ctx, run.GetID(), ""))
	require.True(t, temporal.IsCanceledError(run.Get(s.ctx, nil)))
	history := s.verified(run, WaitsForActivity)
	require.Len(t, ofType(history, enumspb.EVENT_TYPE_ACTIVITY_TASK_CANCELED), 1)
	require.Equal(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED, history[len(history)-1].EventType)
}

func Waits(ctx workflow.Context) error {
	return workflow.Await(ctx, func() bool { return false })
}

func TestTermination(t *testing.T) {
	s := begin(t, []any{Waits})
	run := s.start(Waits)
	s.must(everlog.TerminateWorkflow(s.ctx, run.GetID(), "", "no longer needed"))
	var terminated *temporal.TerminatedError
	require.ErrorAs(t, run.Get(s.ctx, nil), &terminated)
	var notFound *serviceerror.NotFound
	require.ErrorAs(t, everlog.TerminateWorkflow(s.ctx, run.GetID(), "", "again"), &notFound)
}

func TestRunTimeout(t *testing.T) {
	s := begin(t, []any{Waits})
	run := s.startWith(client.StartWorkflowOptions{WorkflowRunTimeout: time.Second}, Waits)
	var timeout *temporal.TimeoutError
	require.ErrorAs(t, run.Get(s.ctx, nil), &timeout)
}

func Fails(workflow.Context) error {
	return temporal.NewApplicationErrorWithCause("did not work", "Unfit", errors.New("the reason"), "detail")
}

func TestWorkflowFailure(t *testing.T) {
	s := begin(t, []any{Fails})
	run := s.start(Fails)
	var failure *temporal.ApplicationError
	require.ErrorAs(t, run.Get(s.ctx, nil), &failure)
	require.Equal(t, "Unfit", failure.Type())
	require.Equal(t, "the reason", errors.Unwrap(failure).Error())
	var detail string
	s.must(failure.Details(&detail))
	require.Equal(t, "detail", detail)
	s.verified(run, Fails)
}

func TestAlreadyStarted(t *testing.T) {
	s := begin(t, []any{Waits})
	options := client.StartWorkflowOptions{ID: unique("go"), WorkflowExecutionErrorWhenAlreadyStarted: true, TaskQueue: s.queue}
	run := s.startWith(options, Waits)
	_, err := everlog.ExecuteWorkflow(s.ctx, options, Waits)
	var already *serviceerror.WorkflowExecutionAlreadyStarted
	require.ErrorAs(t, err, &already)
	require.Equal(t, run.GetRunID(), already.RunId)

	options.WorkflowExecutionErrorWhenAlreadyStarted = false
	same := s.startWith(options, Waits)
	require.Equal(t, run.GetRunID(), same.GetRunID(), "by default the SDK attaches to the run that exists")
	s.must(everlog.TerminateWorkflow(s.ctx, run.GetID(), "", ""))
}

var sideEffects atomic.Int32

// Records uses each kind of marker that the Go SDK writes.
func Records(ctx workflow.Context) (int32, error) {
	var value int32
	err := workflow.SideEffect(ctx, func(workflow.Context) any { return sideEffects.Add(1) }).Get(&value)
	if err != nil {
		return 0, err
	}
	same := func(a, b any) bool { return a.(string) == b.(string) }
	for _, setting := range []string{"a", "a", "b"} {
		workflow.MutableSideEffect(ctx, "setting", func(workflow.Context) any { return setting }, same)
		if err := workflow.Sleep(ctx, 10*time.Millisecond); err != nil {
			return 0, err
		}
	}
	if workflow.GetVersion(ctx, "change", workflow.DefaultVersion, 2) != 2 {
		return 0, errors.New("a new workflow takes the newest version")
	}
	return value, nil
}

func TestMarkers(t *testing.T) {
	s := begin(t, []any{Records})
	run := s.start(Records)
	value := result[int32](s, run)
	require.Equal(t, value, sideEffects.Load(), "the side effect ran once")
	history := s.verified(run, Records)
	var markers []string
	for _, marker := range ofType(history, enumspb.EVENT_TYPE_MARKER_RECORDED) {
		markers = append(markers, marker.GetMarkerRecordedEventAttributes().MarkerName)
	}
	require.Equal(t, []string{"SideEffect", "MutableSideEffect", "MutableSideEffect", "Version"}, markers)
}

// The bug that TestBugIsSurvived repairs while its workflow runs.
var repaired atomic.Bool

func Panics(workflow.Context) (string, error) {
	if !repaired.Load() {
		panic("a bug, not a failure of the workflow")
	}
	return "repaired", nil
}

func TestBugIsSurvived(t *testing.T) {
	s := begin(t, []any{Panics})
	run := s.startWith(client.StartWorkflowOptions{WorkflowTaskTimeout: time.Second}, Panics)
	s.eventually(func() bool {
		return len(ofType(s.history(run), enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED)) == 1
	}, "the workflow task fails")
	repaired.Store(true)
	require.Equal(t, "repaired", result[string](s, run))
	require.Len(t, ofType(s.verified(run, Panics), enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED), 1)
}

func TestDescribeAndList(t *testing.T) {
	s := begin(t, []any{Waits})
	run := s.startWith(client.StartWorkflowOptions{Memo: map[string]any{"color": "green"}}, Waits)
	description, err := everlog.DescribeWorkflowExecution(s.ctx, run.GetID(), "")
	s.must(err)
	info := description.WorkflowExecutionInfo
	require.Equal(t, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, info.Status)
	require.Equal(t, "Waits", info.Type.Name)
	require.Equal(t, s.queue, info.TaskQueue)
	require.Equal(t, `"green"`, string(info.Memo.Fields["color"].Data))
	query := fmt.Sprintf("WorkflowId = '%s' AND ExecutionStatus = 'Running' AND WorkflowType = 'Waits'", run.GetID())
	s.eventually(func() bool {
		list, err := everlog.ListWorkflow(s.ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query})
		s.must(err)
		return len(list.Executions) == 1 && list.Executions[0].Execution.RunId == run.GetRunID()
	}, "the workflow is listed")
	s.must(everlog.TerminateWorkflow(s.ctx, run.GetID(), "", ""))
}

func TestTwoWorkersShareATaskQueue(t *testing.T) {
	t.Parallel()
	other, err := dial("the-other")
	require.NoError(t, err)
	t.Cleanup(other.Close)
	s := beginOn(t, everlog, worker.Options{}, []any{RunsEcho}, Echo)
	second := worker.New(other, s.queue, worker.Options{})
	second.RegisterWorkflow(RunsEcho)
	second.RegisterActivity(Echo)
	s.must(second.Start())
	t.Cleanup(second.Stop)
	identities := map[string]bool{}
	for round := 0; len(identities) < 2 && s.ctx.Err() == nil; round++ {
		runs := make([]client.WorkflowRun, 10)
		for i := range runs {
			runs[i] = s.start(RunsEcho, fmt.Sprint(round, i))
		}
		for i, run := range runs {
			require.Equal(t, fmt.Sprint(round, i), result[string](s, run))
			for _, event := range ofType(s.verified(run, RunsEcho), enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED) {
				identities[event.GetWorkflowTaskCompletedEventAttributes().Identity] = true
			}
		}
	}
	require.Len(t, identities, 2, "both workers get work")
}

func TestHistoryOfARunningWorkflowCanBeFollowed(t *testing.T) {
	s := begin(t, []any{Collects})
	run := s.start(Collects, 1)
	events := everlog.GetWorkflowHistory(s.ctx, run.GetID(), "", true, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var last enumspb.EventType
	for signalled := false; events.HasNext(); {
		event, err := events.Next()
		s.must(err)
		last = event.EventType
		if last == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED && !signalled {
			signalled = true
			s.must(everlog.SignalWorkflow(s.ctx, run.GetID(), "", "add", 0))
		}
	}
	require.Equal(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, last)
}

func TestUnknownWorkflow(t *testing.T) {
	s := begin(t, []any{Waits})
	_, err := everlog.WorkflowService().DescribeWorkflowExecution(s.ctx, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: "default",
		Execution: &commonpb.WorkflowExecution{WorkflowId: unique("unknown")},
	})
	var notFound *serviceerror.NotFound
	require.ErrorAs(t, err, &notFound)
}
